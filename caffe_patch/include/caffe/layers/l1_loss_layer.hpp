#ifndef CAFFE_L1_LOSS_LAYER_HPP_
#define CAFFE_L1_LOSS_LAYER_HPP_

#include <stdint.h>

#include <string>
#include <vector>

#include "caffe/blob.hpp"
#include "caffe/layer.hpp"
#include "caffe/proto/caffe.pb.h"

// What differs between the trees of Caffe, and nothing else does. The script
// that applies this file to a tree sets these lines for that tree.
#define L1_LOSS_BASE_HEADER "caffe/layers/loss_layer.hpp"
#define L1_LOSS_HAS_NORMALIZATION 1
#define L1_LOSS_HAS_EMPTY_BLOBS 1
#define L1_LOSS_HAS_SHAPES 1
#define L1_LOSS_HAS_PARAM_STR 1

#include L1_LOSS_BASE_HEADER

#ifdef L1_LOSS_PLUGIN  // an unmodified caffe.proto: the message is our own
#include "l1_loss_plugin.hpp"
#endif

#ifdef __CUDACC__
#define L1_LOSS_HOST_DEVICE __host__ __device__
#else
#define L1_LOSS_HOST_DEVICE
#endif

namespace caffe {

// Caffe's own limit, but for the summer of 2015, when it had none.
const int kL1LossMaxAxes = 32;

#if L1_LOSS_HAS_SHAPES

template <typename Dtype>
inline const vector<int>& L1LossShape(const Blob<Dtype>& blob) {
  return blob.shape();
}

template <typename Dtype>
inline void L1LossReshape(const vector<int>& shape, Blob<Dtype>* blob) {
  blob->Reshape(shape);
}

#else  // before March 2015 a blob had four axes, neither more nor less

template <typename Dtype>
inline vector<int> L1LossShape(const Blob<Dtype>& blob) {
  const int axes[] = {blob.num(), blob.channels(), blob.height(), blob.width()};
  return vector<int>(axes, axes + 4);
}

template <typename Dtype>
inline void L1LossReshape(vector<int> shape, Blob<Dtype>* blob) {
  shape.resize(4, 1);
  blob->Reshape(shape[0], shape[1], shape[2], shape[3]);
}

#endif  // L1_LOSS_HAS_SHAPES

/**
 * @brief Where each element of the predictions finds its factor in a smaller
 *        blob that is broadcast to them.
 *
 * Neighbouring axes that are walked alike are merged, so that a blob of the
 * predictions' own shape has a single axis here, and one number per sample
 * two; the last comes first. A plain struct, so that it is passed to a CUDA
 * kernel by value.
 */
struct L1LossBroadcast {
  int axes;
  int size[kL1LossMaxAxes];
  int stride[kL1LossMaxAxes];  // 0 along an axis that is broadcast
  // i / size is i * inverse >> shift, for every int i >= 0: a GPU divides
  // integers slowly.
  uint32_t inverse[kL1LossMaxAxes];
  int shift[kL1LossMaxAxes];

  /// @brief The factor's place, for element i of the predictions.
  L1_LOSS_HOST_DEVICE int index(int i) const {
    int result = 0, axis = 0;
    for (; axis < axes - 1; ++axis) {
      const int rest = static_cast<uint64_t>(i) * inverse[axis] >> shift[axis];
      result += (i - rest * size[axis]) * stride[axis];
      i = rest;
    }
    return result + i * stride[axis];
  }
  /// @brief How many elements, from number i on, end a row: they have the same
  ///        factor, or neighbouring ones.
  int row(const int i) const { return size[0] - i % size[0]; }
  /// @brief Sets inverse and shift; there is no element if a size is 0.
  void Invert() {
    for (int axis = 0; axis < axes; ++axis) {
      if (size[axis] == 0) { continue; }
      shift[axis] = 31;
      while (1u << (shift[axis] - 31) < size[axis]) { ++shift[axis]; }
      inverse[axis] = (uint64_t(1) << shift[axis]) / size[axis] + 1;
    }
  }
};

/// @brief From the shape of the predictions to the smaller one of a blob.
inline L1LossBroadcast L1LossMakeBroadcast(const vector<int>& large,
    const vector<int>& small) {
  L1LossBroadcast map;
  map.axes = 0;
  int stride = 1;
  for (int i = large.size() - 1; i >= 0; --i) {
    if (large[i] == 1 && (i > 0 || map.axes > 0)) { continue; }
    const bool own = i < small.size() && small[i] == large[i];
    if (map.axes > 0 && own == (map.stride[map.axes - 1] > 0)) {
      map.size[map.axes - 1] *= large[i];
    } else {
      map.size[map.axes] = large[i];
      map.stride[map.axes++] = own ? stride : 0;
    }
    if (own) { stride *= large[i]; }
  }
  map.Invert();
  return map;
}

/**
 * @brief Which targets are ignored. A plain struct, as L1LossBroadcast.
 */
template <typename Dtype>
struct L1LossIgnore {
  Dtype label;  // NaN, which equals nothing, if none is ignored
  bool nonfinite;

  L1_LOSS_HOST_DEVICE bool any() const { return label == label || nonfinite; }
  /// @brief y - y is 0 for every number, but NaN for NaN and infinity.
  L1_LOSS_HOST_DEVICE bool operator()(const Dtype y) const {
    return y == label || (nonfinite && !(y - y == Dtype(0)));
  }
};

/**
 * @brief Computes the L1 (absolute error) loss
 *        @f$ E = \frac{1}{Z} \sum\limits_i w_i \left| x_i - y_i \right| @f$.
 *
 * @param bottom input Blob vector (length 2 or 3)
 *   -# @f$ (N \times ...) @f$
 *      the predictions @f$ x \in [-\infty, +\infty] @f$
 *   -# @f$ (N \times ...) @f$
 *      the targets @f$ y \in [-\infty, +\infty] @f$, of the shape of the
 *      predictions; neighbouring axes may be merged, axes of length 1 added
 *   -# (optional) the weights @f$ w @f$, 1 if not given: every axis equals
 *      that of the predictions or is 1, from the first axis on
 * @param top output Blob vector (length 1)
 *   -# the loss: a scalar, or with reduction NONE
 *      @f$ e_i = w_i \left| x_i - y_i \right| @f$ in the shape of the
 *      predictions, or with an axis the means of e over it and all that follow
 *
 * The divisor @f$ Z @f$ is chosen by l1_loss_param.reduction:
 *   - BATCHMEAN (default): @f$ N @f$
 *   - MEAN: the number of elements
 *   - SUM: 1
 *   - VALID_MEAN: the number of elements not ignored whose weight is not 0
 *   - WEIGHTED_MEAN: @f$ \sum w_i @f$ over the elements not ignored
 *
 * Where the reduction is not set, loss_param's normalization (FULL, VALID,
 * BATCH_SIZE, NONE) or the older normalize choose it, as in Caffe's own losses.
 *
 * With ignore_label or ignore_nonfinite_target an ignored element counts
 * nowhere. A divisor of 0 gives loss 0 and gradient 0. NaN in a prediction is
 * never hidden: it reaches the loss and the gradient.
 *
 * With beta > 0 the loss is smooth where x meets y:
 * @f$ e_i = \frac{w_i}{2 \beta} (x_i - y_i)^2 @f$ if
 * @f$ \left| x_i - y_i \right| < \beta @f$, else
 * @f$ w_i (\left| x_i - y_i \right| - \beta / 2) @f$.
 *
 * Both the predictions and the targets can be trained.
 */
template <typename Dtype>
class L1LossLayer : public LossLayer<Dtype> {
 public:
  explicit L1LossLayer(const LayerParameter& param)
      : LossLayer<Dtype>(param), weighted_count_(0), divisor_(0) {}
  virtual void LayerSetUp(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top);
  virtual void Reshape(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top);

  virtual inline const char* type() const { return "L1Loss"; }
  virtual inline int ExactNumBottomBlobs() const { return -1; }
  virtual inline int MinBottomBlobs() const { return 2; }
  virtual inline int MaxBottomBlobs() const { return 3; }
  /**
   * Unlike most loss layers, in the L1LossLayer we can backpropagate to both
   * inputs, but never to the weights.
   */
  virtual inline bool AllowForceBackward(const int bottom_index) const {
    return bottom_index != 2;
  }

 protected:
  /// @copydoc L1LossLayer
  virtual void Forward_cpu(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top);
  virtual void Forward_gpu(const vector<Blob<Dtype>*>& bottom,
      const vector<Blob<Dtype>*>& top);

  /**
   * @brief Computes the gradient with respect to the predictions and targets.
   *
   * @f$ \frac{\partial E}{\partial x_i} =
   *     \frac{\lambda}{Z} w_i \, \mathrm{sign}(x_i - y_i), \quad
   *     \frac{\partial E}{\partial y_i} =
   *     - \frac{\partial E}{\partial x_i} @f$
   *
   * with @f$ (x_i - y_i) / \beta @f$ for the sign if
   * @f$ \left| x_i - y_i \right| < \beta @f$,
   * sign(0) = 0, sign(NaN) = NaN and @f$ \lambda @f$ = top[0]'s diff,
   * which is the loss_weight. A bottom that propagate_down leaves out is not
   * touched; asking for the gradient of the weights is an error.
   */
  virtual void Backward_cpu(const vector<Blob<Dtype>*>& top,
      const vector<bool>& propagate_down, const vector<Blob<Dtype>*>& bottom);
  virtual void Backward_gpu(const vector<Blob<Dtype>*>& top,
      const vector<bool>& propagate_down, const vector<Blob<Dtype>*>& bottom);

  /// @brief How every message of this layer begins.
  string where() const;
  /// @brief The shape of top[0]; checks the option axis.
  vector<int> TopShape(const Blob<Dtype>& x) const;
  void ReshapeTop(const vector<int>& shape, Blob<Dtype>* top);
  void CheckPropagateDown(const vector<bool>& propagate_down) const;

  /// @brief Whether the divisor depends on what y and w hold.
  bool counts() const;
  /// @brief Z; counted is what the elements add up to where counts().
  double Divisor(const Blob<Dtype>& x, double counted) const;

  void ForwardReduced_cpu(const vector<Blob<Dtype>*>& bottom, Blob<Dtype>* top);
  void ForwardUnreduced_cpu(const vector<Blob<Dtype>*>& bottom,
      Blob<Dtype>* top);
  void ForwardReduced_gpu(const vector<Blob<Dtype>*>& bottom, Blob<Dtype>* top);
  void ForwardUnreduced_gpu(const vector<Blob<Dtype>*>& bottom,
      Blob<Dtype>* top);

  /// @brief partial_, of its size.
  Blob<double>* Partial();

  /// The options, with what loss_param says already in them.
  L1LossParameter options_;
  L1LossIgnore<Dtype> ignore_;
  Dtype beta_;  // which may be 0 as a Dtype alone
  /// From an element of the predictions to its weight and its top's diff.
  L1LossBroadcast weight_map_, top_map_;
  /// How many elements of top[0]'s diff hold the loss_weight.
  int weighted_count_;
  /// Z of the last Forward_cpu.
  double divisor_;
  /// Z and 1 / Z of the last Forward_gpu, and that pass's partial sums behind
  /// them: a fixed size.
  Blob<double> partial_;
};

}  // namespace caffe

#endif  // CAFFE_L1_LOSS_LAYER_HPP_
