// Whether the Caffe of this process is the one that the plugin was built for.
// Its headers are compiled into the plugin, so in another one it could crash.

#include <dlfcn.h>

#include <boost/crc.hpp>
#include <cstdio>
#include <fstream>  // NOLINT(readability/streams)
#include <iterator>
#include <string>

#include "caffe/common.hpp"

// By this a loader knows it too, before it loads the plugin.
extern "C" const char l1_loss_plugin_built_for[] =
    "l1-loss-plugin for " L1_LOSS_PLUGIN;

namespace {

// The file that this address was loaded from.
std::string FileOf(const void* address) {
  Dl_info info;
  return dladdr(address, &info) && info.dli_fname ? info.dli_fname : "";
}

// Its size and CRC-32: the same as the script and the loader in Python compute.
std::string Fingerprint(const std::string& path) {
  std::ifstream file(path.c_str(), std::ios::binary);
  const std::string data((std::istreambuf_iterator<char>(file)),
      std::istreambuf_iterator<char>());
  boost::crc_32_type crc;
  crc.process_bytes(data.data(), data.size());
  char text[32];
  snprintf(text, sizeof(text), "%zu-%08x", data.size(),
      static_cast<unsigned>(crc.checksum()));
  return text;
}

}  // namespace

namespace caffe {

bool L1LossPluginFits() {
  const std::string library =
      FileOf(reinterpret_cast<const void*>(&caffe::GlobalInit));
  if (Fingerprint(library) == L1_LOSS_PLUGIN) { return true; }
  fprintf(stderr, "%s: this plugin was built for another Caffe than %s, and "
      "does nothing here; fix: build it again with scripts/build_plugin.py "
      "(or caffe-l1 build-plugin)\n",
      FileOf(reinterpret_cast<const void*>(&Fingerprint)).c_str(),
      library.c_str());
  return false;
}

}  // namespace caffe
