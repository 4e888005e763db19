// The layer in the C++ of 1998, in which the protobuf of today does not compile:
// beside the little of Caffe that it calls, and compared with a plain loop.

#include <stdint.h>

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

namespace caffe {

using std::string;
using std::vector;

struct Fatal {
  ~Fatal() { abort(); }
  void operator&(const std::ostream&) const {}
};
#define LOG_IF(severity, condition) \
  !(condition) ? static_cast<void>(0) : Fatal() & std::cerr

template <typename Dtype>
class Blob {
 public:
  const vector<int>& shape() const { return shape_; }
  int count() const { return data_.size(); }
  void Reshape(const vector<int>& shape) {
    int count = 1;
    for (size_t i = 0; i < shape.size(); ++i) { count *= shape[i]; }
    shape_ = shape;
    data_.resize(count);
    diff_.resize(count);
  }
  const Dtype* cpu_data() const { return &data_[0]; }
  const Dtype* cpu_diff() const { return &diff_[0]; }
  Dtype* mutable_cpu_data() { return &data_[0]; }
  Dtype* mutable_cpu_diff() { return &diff_[0]; }

 private:
  vector<int> shape_;
  vector<Dtype> data_, diff_;
};

struct PythonParameter {
  string param_str() const { return ""; }
};

struct LossParameter {
  enum NormalizationMode { FULL, VALID, BATCH_SIZE, NONE };
  bool has_ignore_label() const { return false; }
  int ignore_label() const { return 0; }
  bool has_normalize() const { return false; }
  bool normalize() const { return true; }
  bool has_normalization() const { return true; }
  NormalizationMode normalization() const { return FULL; }
};

class L1LossParameter {
 public:
  enum Reduction { BATCHMEAN, MEAN, SUM, VALID_MEAN, WEIGHTED_MEAN, NONE };
  L1LossParameter() : has_reduction_(false), reduction_(BATCHMEAN) {}
  bool has_reduction() const { return has_reduction_; }
  Reduction reduction() const { return reduction_; }
  void set_reduction(Reduction reduction) {
    reduction_ = reduction;
    has_reduction_ = true;
  }
  static string Reduction_Name(Reduction reduction) { return ""; }
  bool has_axis() const { return false; }
  int axis() const { return 0; }
  bool has_ignore_label() const { return true; }
  double ignore_label() const { return 2; }
  void set_ignore_label(double label) {}
  bool ignore_nonfinite_target() const { return false; }
  double beta() const { return 0; }
  void MergeFrom(const L1LossParameter& other) { *this = other; }

 private:
  bool has_reduction_;
  Reduction reduction_;
};

struct LayerParameter {
  string name() const { return "loss"; }
  PythonParameter python_param() const { return PythonParameter(); }
  LossParameter loss_param() const { return LossParameter(); }
  L1LossParameter l1_loss_param() const { return L1LossParameter(); }
};

template <typename Dtype>
class LossLayer {
 public:
  explicit LossLayer(const LayerParameter& param) : layer_param_(param) {}
  virtual ~LossLayer() {}
  virtual void LayerSetUp(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top) {}
  Dtype loss(const int top_index) const { return 3; }

 protected:
  LayerParameter layer_param_;
};

template <typename Dtype>
void caffe_set(const int n, const Dtype alpha, Dtype* out) {
  for (int i = 0; i < n; ++i) { out[i] = alpha; }
}

}  // namespace caffe

#define INSTANTIATE_CLASS(name) \
  template class name<float>; \
  template class name<double>
#define REGISTER_LAYER_CLASS(type) typedef int RegisteredLayer
#define STUB_GPU(name) \
  template <typename Dtype> void name<Dtype>::Forward_gpu( \
      const vector<Blob<Dtype>*>&, const vector<Blob<Dtype>*>&) {} \
  template <typename Dtype> void name<Dtype>::Backward_gpu( \
      const vector<Blob<Dtype>*>&, const vector<bool>&, \
      const vector<Blob<Dtype>*>&) {}

#include "src/caffe/layers/l1_loss_layer.cpp"  // NOLINT(build/include)

template <typename Dtype>
struct Layer : caffe::L1LossLayer<Dtype> {
  Layer() : caffe::L1LossLayer<Dtype>(caffe::LayerParameter()) {}
  using caffe::L1LossLayer<Dtype>::Forward_cpu;
  using caffe::L1LossLayer<Dtype>::Backward_cpu;
};

void Expect(const char* what, const int rows, const double got,
    const double expected) {
  if (std::fabs(got - expected) <= 1e-5 * std::fabs(expected)) { return; }
  std::cerr << what << " with " << rows << " rows is " << got << ", not "
      << expected << std::endl;
  exit(1);
}

// The mean of w |x - y| where y is not 2, times 3 in the gradients.
template <typename Dtype>
void Compare(const int rows, const int bottoms) {
  caffe::Blob<Dtype> x, y, w, loss;
  std::vector<int> shape(2, rows);
  shape[1] = 7;
  x.Reshape(shape);
  y.Reshape(shape);
  w.Reshape(std::vector<int>(1, rows));
  for (int i = 0; i < x.count(); ++i) {
    x.mutable_cpu_data()[i] = rand() % 9 / 4.;  // NOLINT(caffe/random_fn)
    y.mutable_cpu_data()[i] = rand() % 9 / 4.;  // NOLINT(caffe/random_fn)
  }
  for (int i = 0; i < rows; ++i) { w.mutable_cpu_data()[i] = i % 5 / 2.; }
  caffe::Blob<Dtype>* const all[] = {&x, &y, &w};
  const std::vector<caffe::Blob<Dtype>*> bottom(all, all + bottoms);
  const std::vector<caffe::Blob<Dtype>*> top(1, &loss);
  std::vector<bool> propagate_down(bottoms, false);
  propagate_down[0] = propagate_down[1] = true;
  Layer<Dtype> layer;
  layer.LayerSetUp(bottom, top);
  layer.Reshape(bottom, top);
  layer.Forward_cpu(bottom, top);
  layer.Backward_cpu(top, propagate_down, bottom);
  double expected = 0;
  for (int i = 0; i < x.count(); ++i) {
    const double difference = x.cpu_data()[i] - y.cpu_data()[i];
    const double weight = y.cpu_data()[i] == 2 ? 0
        : bottoms > 2 ? w.cpu_data()[i / 7] : 1;
    const double gradient =
        3 * weight * ((difference > 0) - (difference < 0)) / x.count();
    expected += weight * std::fabs(difference) / x.count();
    Expect("x's gradient", rows, x.cpu_diff()[i], gradient);
    Expect("y's gradient", rows, y.cpu_diff()[i], -gradient);
  }
  Expect("the loss", rows, loss.cpu_data()[0], expected);
}

int main() {
  const int rows[] = {1, 2, 5, 1000, 40000};
  for (int i = 0; i < 10; ++i) {
    Compare<float>(rows[i / 2], 2 + i % 2);
    Compare<double>(rows[i / 2], 2 + i % 2);
  }
  return 0;
}
