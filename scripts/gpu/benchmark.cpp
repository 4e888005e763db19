// Times the layer on the GPU beside the usual library calls and what the memory
// can do:
//
//   benchmark --device               says which GPU is here, or exits with 3
//   benchmark FILE.json PYTORCH.tsv  prints the table; writes it as JSON too
//
// PYTORCH.tsv is what pytorch_l1.py printed, or is not there.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>  // NOLINT(readability/streams)
#include <iostream>  // NOLINT(readability/streams)
#include <limits>
#include <sstream>  // NOLINT(readability/streams)
#include <string>
#include <vector>

#include "caffe/caffe.hpp"
#include "google/protobuf/text_format.h"

namespace {

using caffe::Blob;
using std::string;
using std::vector;

const char kFull[] = "reduction: MEAN";
enum Weights { kNoWeights, kSampleWeights, kElementWeights };

struct Case {
  const char* name;
  const char* type;
  int rows;
  const char* options;
  Weights weights;
  bool per_element;  // the top, as well as the bottoms
};

const Case kCases[] = {
  {"L1Loss", "L1Loss", 256, kFull, kNoWeights, false},
  {"the article's calls", "L1LossArticle", 256, "", kNoWeights, false},
  {"EuclideanLoss", "EuclideanLoss", 256, "", kNoWeights, false},
  {"ignore_label", "L1Loss", 256, "reduction: VALID_MEAN ignore_label: 255",
      kNoWeights, false},
  {"ignore_nonfinite_target", "L1Loss", 256,
      "reduction: MEAN ignore_nonfinite_target: true", kNoWeights, false},
  {"a weight per sample", "L1Loss", 256, "reduction: WEIGHTED_MEAN",
      kSampleWeights, false},
  {"a weight per element", "L1Loss", 256, kFull, kElementWeights, false},
  {"NONE", "L1Loss", 256, "reduction: NONE", kNoWeights, true},
  {"NONE, one row", "L1Loss", 1, "reduction: NONE axis: 0", kNoWeights, false},
  {"NONE, 8 rows", "L1Loss", 8, "reduction: NONE axis: 1", kNoWeights, false},
  {"NONE, 1,048,576 rows", "L1Loss", 1 << 20, "reduction: NONE axis: 1",
      kNoWeights, false},
};

// Milliseconds, and what a copy takes that moves as many bytes.
struct Row {
  string name, type;
  double forward, backward, forward_copy, backward_copy;
};

// The median of single calls, by the GPU's own clock.
template <typename Call>
double Milliseconds(const Call& call) {
  const int kWarmUps = 3, kTimes = 21;
  cudaEvent_t start, stop;
  CUDA_CHECK(cudaEventCreate(&start));
  CUDA_CHECK(cudaEventCreate(&stop));
  vector<float> times(kTimes);
  for (int i = -kWarmUps; i < kTimes; ++i) {
    CUDA_CHECK(cudaEventRecord(start));
    call();
    CUDA_CHECK(cudaEventRecord(stop));
    CUDA_CHECK(cudaEventSynchronize(stop));
    CUDA_CHECK(cudaEventElapsedTime(&times[std::max(i, 0)], start, stop));
  }
  CUDA_CHECK(cudaEventDestroy(start));
  CUDA_CHECK(cudaEventDestroy(stop));
  std::sort(times.begin(), times.end());
  return times[kTimes / 2];
}

template <typename Dtype>
void Fill(const Dtype special, Blob<Dtype>* blob) {
  unsigned int state = 1701;
  Dtype* data = blob->mutable_cpu_data();
  for (int i = 0; i < blob->count(); ++i) {
    state = state * 1664525u + 1013904223u;
    data[i] = state >> 29 ? state / Dtype(1u << 31) - 1 : special;
  }
  blob->gpu_data();
}

template <typename Dtype>
Row Time(const Case& c, const int count, const double copy, Blob<Dtype>* x,
    Blob<Dtype>* y, Blob<Dtype>* w) {
  vector<int> shape(1, c.rows);
  w->Reshape(shape);
  shape.push_back(count / c.rows);
  x->Reshape(shape);
  y->Reshape(shape);
  if (c.weights == kElementWeights) { w->Reshape(shape); }
  // A loss_weight of 0 keeps Layer::Forward from adding up and waiting.
  caffe::LayerParameter param;
  CHECK(google::protobuf::TextFormat::ParseFromString(string("type: '") + c.type
      + "' loss_weight: 0 l1_loss_param { " + c.options + " }", &param));
  Blob<Dtype> loss;
  vector<Blob<Dtype>*> top(1, &loss), bottom(1, x);
  bottom.push_back(y);
  if (c.weights != kNoWeights) { bottom.push_back(w); }
  const bool nonfinite = param.l1_loss_param().ignore_nonfinite_target();
  Fill<Dtype>(0, x);
  Fill<Dtype>(nonfinite ? std::numeric_limits<Dtype>::quiet_NaN() : 255, y);
  Fill<Dtype>(1, w);
  auto layer = caffe::LayerRegistry<Dtype>::CreateLayer(param);
  layer->SetUp(bottom, top);
  caffe::caffe_gpu_set(loss.count(), Dtype(1), loss.mutable_gpu_diff());
  vector<bool> down(bottom.size(), false);
  down[0] = down[1] = true;
  const double inputs = 2 + (c.weights == kElementWeights) + c.per_element;
  Row row = {c.name, "", 0, 0, inputs / 2 * copy, (inputs + 2) / 2 * copy};
  row.forward = Milliseconds([&] { layer->Forward(bottom, top); });
  row.backward = Milliseconds([&] { layer->Backward(top, down, bottom); });
  return row;
}

template <typename Dtype>
void TimeAll(const string& type, const int count, std::istream* pytorch,
    vector<Row>* rows) {
  Blob<Dtype> x(vector<int>(1, count)), y(vector<int>(1, count));
  Blob<Dtype> w(vector<int>(1, count));
  Fill<Dtype>(0, &x);
  // It reads and writes what a forward pass reads.
  const double copy = Milliseconds([&] {
    CUDA_CHECK(cudaMemcpyAsync(y.mutable_gpu_data(), x.gpu_data(),
        count * sizeof(Dtype), cudaMemcpyDeviceToDevice));
  });
  rows->push_back({"the memory: a copy of as many bytes", type, copy, 2 * copy,
      copy, 2 * copy});
  for (const Case& c : kCases) {
    rows->push_back(Time(c, count, copy, &x, &y, &w));
    rows->back().type = type;
  }
  string name, theirs;
  double forward, backward;
  while (std::getline(*pytorch, name, '\t')
      && *pytorch >> theirs >> forward >> backward >> std::ws) {
    if (theirs == type) {
      rows->push_back({name, type, forward, backward, copy, 2 * copy});
    }
  }
}

// As the kernel module says, 580.65.06.
string Driver() {
  std::ifstream file("/proc/driver/nvidia/version");
  string word;
  while (file >> word) {
    if (isdigit(word[0]) && word.find('.') != string::npos) { return word; }
  }
  return "unknown";
}

string Cuda(const int version) {
  std::ostringstream text;
  text << version / 1000 << "." << version % 1000 / 10;
  return text.str();
}

int Device(cudaDeviceProp* device) {
  int known = 0, count = 0;
  CUDA_CHECK(cudaDriverGetVersion(&known));
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (known == 0 || error == cudaErrorNoDevice) {
    std::cout << "no GPU: " << (known ? cudaGetErrorString(error)
        : "there is no NVIDIA driver here") << std::endl;
    return 3;
  }
  if (error == cudaErrorInsufficientDriver) {
    std::cout << "the driver knows CUDA " << Cuda(known) << ", and this was "
        "built with CUDA " << Cuda(CUDART_VERSION) << "; fix: update the "
        "driver, or build with an older CUDA" << std::endl;
    return 1;
  }
  if (error != cudaSuccess) {
    std::cout << "CUDA says: " << cudaGetErrorString(error) << std::endl;
    return 1;
  }
  CUDA_CHECK(cudaGetDeviceProperties(device, 0));
  std::cout << device->name << " (sm_" << device->major << device->minor
      << "), driver " << Driver() << ", CUDA " << Cuda(known) << std::endl;
  return 0;
}

void PrintTable(const int count, const vector<Row>& rows) {
  printf("\n| %d elements | type | forward | of the memory's speed | backward, "
      "both | of the memory's speed |\n|---|---|---|---|---|---|\n", count);
  for (const Row& row : rows) {
    printf("| %s | %s | %.3f ms | %.0f %% | %.3f ms | %.0f %% |\n",
        row.name.c_str(), row.type.c_str(), row.forward,
        100 * row.forward_copy / row.forward, row.backward,
        100 * row.backward_copy / row.backward);
  }
}

void WriteJson(const cudaDeviceProp& device, const int count,
    const vector<Row>& rows, std::ostream* file) {
  *file << "{\"device\": \"" << device.name << "\", \"capability\": \""
      << device.major << "." << device.minor << "\", \"driver\": \"" << Driver()
      << "\", \"cuda\": \"" << Cuda(CUDART_VERSION) << "\", \"elements\": "
      << count << ", \"rows\": [";
  const char* separator = "\n";
  for (const Row& row : rows) {
    *file << separator << "{\"name\": \"" << row.name << "\", \"type\": \""
        << row.type << "\", \"forward_ms\": " << row.forward
        << ", \"backward_ms\": " << row.backward << ", \"forward_copy_ms\": "
        << row.forward_copy << ", \"backward_copy_ms\": " << row.backward_copy
        << "}";
    separator = ",\n";
  }
  *file << "]}\n";
}

}  // namespace

int main(int argc, char** argv) {
  cudaDeviceProp device;
  const int missing = Device(&device);
  if (missing || argc < 3) { return missing; }
  FLAGS_minloglevel = google::WARNING;
  google::InitGoogleLogging(argv[0]);
  caffe::Caffe::set_mode(caffe::Caffe::GPU);
  // Five blobs of double with their diffs is more than any case takes.
  int count = 1 << 25;
  while (10. * sizeof(double) * count > device.totalGlobalMem) { count /= 2; }
  vector<Row> rows;
  std::ifstream for_float(argv[2]), for_double(argv[2]);
  TimeAll<float>("float", count, &for_float, &rows);
  TimeAll<double>("double", count, &for_double, &rows);
  PrintTable(count, rows);
  std::ofstream json(argv[1]);
  WriteJson(device, count, rows, &json);
  return json.flush() ? 0 : 1;
}
