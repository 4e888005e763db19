// Reads param_strs as the plugin does: on standard input each is its length, a
// line end and so many bytes, and so is on standard output its error, or "="
// and the options as JSON.
#include <cstdio>
#include <string>

#include "l1_loss_parameter.pb.h"

namespace caffe {
std::string L1LossReadParamStr(const std::string& param_str,
    l1_loss_plugin::L1LossParameter* options);
}

std::string AsJson(const l1_loss_plugin::L1LossParameter& options) {
  std::string json = "{";
  char text[64];
  if (options.has_reduction()) {
    json += "\"reduction\": \"" + l1_loss_plugin::L1LossParameter::
        Reduction_Name(options.reduction()) + "\", ";
  }
  if (options.has_axis()) {
    json += "\"axis\": " + std::to_string(options.axis()) + ", ";
  }
  if (options.has_ignore_label()) {
    snprintf(text, sizeof(text), "\"ignore_label\": %.17g, ",
        options.ignore_label());
    json += text;
  }
  if (options.has_beta()) {
    snprintf(text, sizeof(text), "\"beta\": %.17g, ", options.beta());
    json += text;
  }
  return json + "\"ignore_nonfinite_target\": "
      + (options.ignore_nonfinite_target() ? "true}" : "false}");
}

int main() {
  int size;
  while (scanf("%d", &size) == 1) {
    std::string text(size, 0);
    if (getchar() != '\n' || fread(&text[0], 1, size, stdin) != size_t(size)) {
      return 1;
    }
    l1_loss_plugin::L1LossParameter options;
    const std::string error = caffe::L1LossReadParamStr(text, &options);
    const std::string said = error.empty() ? "=" + AsJson(options) : error;
    printf("%zu\n", said.size());
    fwrite(said.data(), 1, said.size(), stdout);
  }
  return 0;
}
