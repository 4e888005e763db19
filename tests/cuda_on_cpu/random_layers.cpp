// `random_layers float|double JOBS RESULTS`: passes of L1 layers in GPU mode.
// JOBS has for each layer the length of its prototxt and that, the number of
// passes and of bottoms; for each pass the bottoms: number of axes, these, and
// floats. RESULTS has for each pass the top and the two gradients.
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <fstream>  // NOLINT(readability/streams)
#include <string>
#include <vector>

#include "caffe/layers/l1_loss_layer.hpp"
#include "caffe/util/math_functions.hpp"

using caffe::Blob;
using std::vector;

static int Int(std::ifstream* jobs) {
  int value = 0;
  jobs->read(reinterpret_cast<char*>(&value), sizeof(value));
  return value;
}

template <typename Dtype>
static void Read(std::ifstream* jobs, Blob<Dtype>* blob) {
  vector<int> shape(Int(jobs));
  for (int& length : shape) { length = Int(jobs); }
  blob->Reshape(shape);
  vector<float> data(blob->count());
  jobs->read(reinterpret_cast<char*>(data.data()), 4 * data.size());
  if (data.empty()) { return; }
  std::copy(data.begin(), data.end(), blob->mutable_cpu_data());
  const Dtype garbage = 17;
  caffe::caffe_set(blob->count(), garbage, blob->mutable_cpu_diff());
}

template <typename Dtype>
static void Write(std::ofstream* results, const int count, const Dtype* data) {
  results->write(reinterpret_cast<const char*>(data), count * sizeof(Dtype));
}

template <typename Dtype>
static void RunLayer(const int length, std::ifstream* jobs,
    std::ofstream* results) {
  std::string text(length, ' ');
  jobs->read(&text[0], length);
  caffe::NetParameter net;
  CHECK(google::protobuf::TextFormat::ParseFromString(text, &net));
  const int passes = Int(jobs), bottoms = Int(jobs);
  Blob<Dtype> blobs[3], top;
  const vector<Blob<Dtype>*> tops(1, &top);
  vector<Blob<Dtype>*> bottom;
  vector<bool> propagate_down(bottoms, false);
  propagate_down[0] = propagate_down[1] = true;
  for (int i = 0; i < bottoms; ++i) { bottom.push_back(&blobs[i]); }
  caffe::L1LossLayer<Dtype> layer(net.layer(0));
  for (int pass = 0; pass < passes; ++pass) {
    for (int i = 0; i < bottoms; ++i) { Read(jobs, &blobs[i]); }
    if (pass == 0) { layer.SetUp(bottom, tops); }
    layer.Forward(bottom, tops);
    layer.Backward(tops, propagate_down, bottom);
    if (top.count()) { Write(results, top.count(), top.cpu_data()); }
    for (int i = 0; i < 2 && blobs[i].count(); ++i) {
      Write(results, blobs[i].count(), blobs[i].cpu_diff());
    }
  }
}

int main(int, char** argv) {
  std::ifstream jobs(argv[2], std::ios::binary);
  std::ofstream results(argv[3], std::ios::binary);
  caffe::Caffe::set_mode(caffe::Caffe::GPU);
  while (const int length = Int(&jobs)) {
    if (std::string(argv[1]) == "float") {
      RunLayer<float>(length, &jobs, &results);
    } else {
      RunLayer<double>(length, &jobs, &results);
    }
  }
}
