// The baseline of the benchmark: an L1 loss that makes the library calls which
// tutorials make, under a type name of its own. Forward subtracts into a buffer
// of the input's size and sums it up; backward takes its sign and scales it,
// once for each bottom. Written for the benchmark alone; do not train with it.
#include <vector>

#include "caffe/layers/loss_layer.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

template <typename Dtype>
class L1LossArticleLayer : public LossLayer<Dtype> {
 public:
  explicit L1LossArticleLayer(const LayerParameter& param)
      : LossLayer<Dtype>(param) {}
  virtual void Reshape(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top) {
    LossLayer<Dtype>::Reshape(bottom, top);
    difference_.ReshapeLike(*bottom[0]);
  }
  virtual inline const char* type() const { return "L1LossArticle"; }

 protected:
  virtual void Forward_cpu(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top) {
    const int count = bottom[0]->count();
    caffe_sub(count, bottom[0]->cpu_data(), bottom[1]->cpu_data(),
        difference_.mutable_cpu_data());
    top[0]->mutable_cpu_data()[0] =
        caffe_cpu_asum(count, difference_.cpu_data()) / bottom[0]->shape(0);
  }
  virtual void Backward_cpu(const vector<Blob<Dtype>*>& top,
      const vector<bool>& propagate_down, const vector<Blob<Dtype>*>& bottom) {
    for (int i = 0; i < 2; ++i) {
      const Dtype scale = (i == 0 ? 1 : -1) * top[0]->cpu_diff()[0]
          / bottom[i]->shape(0);
      Dtype* diff = bottom[i]->mutable_cpu_diff();
      caffe_cpu_sign(bottom[i]->count(), difference_.cpu_data(), diff);
      caffe_cpu_scale(bottom[i]->count(), scale, diff, diff);
    }
  }
#ifndef CPU_ONLY
  virtual void Forward_gpu(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top) {
    const int count = bottom[0]->count();
    caffe_gpu_sub(count, bottom[0]->gpu_data(), bottom[1]->gpu_data(),
        difference_.mutable_gpu_data());
    Dtype sum;
    caffe_gpu_asum(count, difference_.gpu_data(), &sum);
    top[0]->mutable_cpu_data()[0] = sum / bottom[0]->shape(0);
  }
  virtual void Backward_gpu(const vector<Blob<Dtype>*>& top,
      const vector<bool>& propagate_down, const vector<Blob<Dtype>*>& bottom) {
    for (int i = 0; i < 2; ++i) {
      const Dtype scale = (i == 0 ? 1 : -1) * top[0]->cpu_diff()[0]
          / bottom[i]->shape(0);
      Dtype* diff = bottom[i]->mutable_gpu_diff();
      caffe_gpu_sign(bottom[i]->count(), difference_.gpu_data(), diff);
      caffe_gpu_scale(bottom[i]->count(), scale, diff, diff);
    }
  }
#endif

  Blob<Dtype> difference_;
};

INSTANTIATE_CLASS(L1LossArticleLayer);
REGISTER_LAYER_CLASS(L1LossArticle);

}  // namespace caffe
