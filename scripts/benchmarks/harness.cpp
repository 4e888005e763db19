// Times single layers of a Caffe through its C++ interface, in float and in
// double. Python calls it by ctypes: see worker.py.
#include <chrono>
#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "caffe/caffe.hpp"
#include "google/protobuf/text_format.h"

namespace {

using caffe::Blob;
using std::vector;

double Seconds() {
  return std::chrono::duration<double>(
      std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Bench {
 public:
  virtual ~Bench() {}
  virtual int AddLayer(const std::string& prototxt) = 0;
  virtual double Forward(int layer, int times) = 0;
  virtual double Backward(int layer, int times) = 0;
  virtual double Loss(int layer) = 0;
  virtual void* Data(int bottom) = 0;
  virtual void* Diff(int bottom) = 0;
};

// All layers of a bench share their bottoms: x, y and two kinds of weights.
template <typename Dtype>
class TypedBench : public Bench {
 public:
  explicit TypedBench(const int count) {
    const int batch = count < 256 ? 1 : 256;
    Add(batch, count / batch, 2);
    Add(batch, count / batch, 2);
    Add(batch, count / batch, 1);
    Add(batch, 0, 1);
  }

  virtual int AddLayer(const std::string& prototxt) {
    caffe::LayerParameter param;
    if (!google::protobuf::TextFormat::ParseFromString(prototxt, &param)) {
      return -1;
    }
    Timed timed;
    timed.bottom.push_back(&*bottoms_[0]);
    timed.bottom.push_back(&*bottoms_[1]);
    if (param.bottom_size() > 2) {
      timed.bottom.push_back(&*bottoms_[param.bottom(2) == "w" ? 2 : 3]);
    }
    timed.loss.reset(new Blob<Dtype>());
    timed.top.push_back(&*timed.loss);
    timed.propagate_down.assign(timed.bottom.size(), false);
    timed.propagate_down[0] = timed.propagate_down[1] = true;
    timed.layer = caffe::LayerRegistry<Dtype>::CreateLayer(param);
    timed.layer->SetUp(timed.bottom, timed.top);
    // What the layers above would hand down, where there is no loss_weight too.
    caffe::caffe_set(timed.loss->count(), Dtype(1),
        timed.loss->mutable_cpu_diff());
    timed.layer->Forward(timed.bottom, timed.top);
    layers_.push_back(timed);
    return layers_.size() - 1;
  }

  virtual double Forward(int layer, int times) {
    Timed& timed = layers_[layer];
    const double start = Seconds();
    for (int i = 0; i < times; ++i) {
      timed.layer->Forward(timed.bottom, timed.top);
    }
    return (Seconds() - start) / times;
  }

  virtual double Backward(int layer, int times) {
    Timed& timed = layers_[layer];
    const double start = Seconds();
    for (int i = 0; i < times; ++i) {
      timed.layer->Backward(timed.top, timed.propagate_down, timed.bottom);
    }
    return (Seconds() - start) / times;
  }

  virtual double Loss(int layer) { return layers_[layer].loss->cpu_data()[0]; }
  virtual void* Data(int bottom) {
    return bottoms_[bottom]->mutable_cpu_data();
  }
  virtual void* Diff(int bottom) {
    return bottoms_[bottom]->mutable_cpu_diff();
  }

 private:
  struct Timed {
    caffe::shared_ptr<caffe::Layer<Dtype> > layer;
    caffe::shared_ptr<Blob<Dtype> > loss;
    vector<Blob<Dtype>*> bottom, top;
    vector<bool> propagate_down;
  };

  void Add(int batch, int length, int deviation) {
    vector<int> shape(1, batch);
    if (length) { shape.push_back(length); }
    caffe::shared_ptr<Blob<Dtype> > blob(new Blob<Dtype>(shape));
    // A long period is enough here, and a generator's speed is not.
    std::minstd_rand draw(bottoms_.size() + 1);
    Dtype* data = blob->mutable_cpu_data();
    Dtype* diff = blob->mutable_cpu_diff();
    for (int i = 0; i < blob->count(); ++i) {
      data[i] = deviation * (draw() / Dtype(1 << 30) - 1);
      diff[i] = 0;
    }
    bottoms_.push_back(blob);
  }

  vector<caffe::shared_ptr<Blob<Dtype> > > bottoms_;
  vector<Timed> layers_;
};

}  // namespace

extern "C" {
Bench* bench_new(int is_double, int count) {
  if (is_double) { return new TypedBench<double>(count); }
  return new TypedBench<float>(count);
}
void bench_delete(Bench* bench) { delete bench; }
int bench_add_layer(Bench* bench, const char* prototxt) {
  return bench->AddLayer(prototxt);
}
double bench_forward(Bench* bench, int layer, int times) {
  return bench->Forward(layer, times);
}
double bench_backward(Bench* bench, int layer, int times) {
  return bench->Backward(layer, times);
}
double bench_loss(Bench* bench, int layer) { return bench->Loss(layer); }
void* bench_data(Bench* bench, int bottom) { return bench->Data(bottom); }
void* bench_diff(Bench* bench, int bottom) { return bench->Diff(bottom); }
}  // extern "C"
