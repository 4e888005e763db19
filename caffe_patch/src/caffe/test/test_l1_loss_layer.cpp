#ifdef _OPENMP
#include <omp.h>
#endif
#ifndef _WIN32
#include <unistd.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "boost/thread.hpp"
#include "gtest/gtest.h"

#include "caffe/blob.hpp"
#include "caffe/common.hpp"
#include "caffe/filler.hpp"
#include "caffe/layers/l1_loss_layer.hpp"

#include "caffe/test/test_caffe_main.hpp"
#include "caffe/test/test_gradient_check_util.hpp"

namespace caffe {

// The step of the numeric gradient. |x - y| stays far above it, since the
// derivative jumps where x meets y.
static const double kStep = 1e-2;
static const double kOffKink = 10 * kStep;
static const double kThreshold = 1e-2;
// Any loss_weight but 1, which would hide that it is dropped.
static const double kLossWeight = 3.7;

template <typename TypeParam>
class L1LossLayerTest : public MultiDeviceTest<TypeParam> {
  typedef typename TypeParam::Dtype Dtype;

 protected:
  L1LossLayerTest()
      : x_(new Blob<Dtype>()), y_(new Blob<Dtype>()), w_(new Blob<Dtype>()),
        loss_(new Blob<Dtype>()) {
    Caffe::set_random_seed(1701);
    param_.set_name("loss");
    param_.add_loss_weight(kLossWeight);
    bottom_.push_back(x_);
    bottom_.push_back(y_);
    top_.push_back(loss_);
    Fill(Shape(3, 2, 5, 2));
  }
  virtual ~L1LossLayerTest() {
    delete x_;
    delete y_;
    delete w_;
    delete loss_;
  }

  static vector<int> Shape(int a, int b = 0, int c = 0, int d = 0) {
    const int axes[] = {a, b, c, d};
    vector<int> shape;
    for (int i = 0; i < 4 && axes[i] > 0; ++i) { shape.push_back(axes[i]); }
    return shape;
  }

  // Counts about every power of two that a block or chunk of the CPU's may be.
  static vector<int> CountsAboutPowersOfTwo() {
    vector<int> counts;
    for (int power = 1 << 9; power <= 1 << 15; power *= 2) {
      for (int i = -1; i <= 1; ++i) { counts.push_back(power + i); }
    }
    return counts;
  }

  // Random x and y of that shape, with |x - y| off the kink.
  void Fill(const vector<int>& shape) {
    L1LossReshape(shape, x_);
    L1LossReshape(shape, y_);
    FillerParameter filler_param;
    GaussianFiller<Dtype> filler(filler_param);
    filler.Fill(x_);
    filler.Fill(y_);
    Dtype* x = x_->mutable_cpu_data();
    const Dtype* y = y_->cpu_data();
    for (int i = 0; i < x_->count(); ++i) {
      if (std::fabs(x[i] - y[i]) < kOffKink) { x[i] = y[i] + kOffKink; }
    }
  }

  // Random weights of that shape as a third bottom, some of them 0.
  void FillWeights(const vector<int>& shape) {
    L1LossReshape(shape, w_);
    FillerParameter filler_param;
    filler_param.set_min(0.5);
    filler_param.set_max(2);
    UniformFiller<Dtype> filler(filler_param);
    filler.Fill(w_);
    for (int i = 1; i < w_->count(); i += 3) { w_->mutable_cpu_data()[i] = 0; }
    bottom_.push_back(w_);
  }

  void SetBeta(double beta) { param_.mutable_l1_loss_param()->set_beta(beta); }

  void SetReduction(L1LossParameter::Reduction reduction) {
    param_.mutable_l1_loss_param()->set_reduction(reduction);
  }

  // The loss of one forward pass, with loss_weight in it.
  Dtype Forward() {
    L1LossLayer<Dtype> layer(param_);
    layer.SetUp(bottom_, top_);
    return layer.Forward(bottom_, top_);
  }

  // One forward and backward pass; the diffs hold garbage before it.
  void ForwardBackward(bool to_x, bool to_y) {
    L1LossLayer<Dtype> layer(param_);
    layer.SetUp(bottom_, top_);
    layer.Forward(bottom_, top_);
    Spoil();
    layer.Backward(top_, PropagateDown(to_x, to_y), bottom_);
  }

  void Spoil() {
    for (int i = 0; i < bottom_.size(); ++i) {
      if (bottom_[i]->count() == 0) { continue; }
      caffe_set(bottom_[i]->count(), Dtype(kGarbage),
          bottom_[i]->mutable_cpu_diff());
    }
  }

  vector<bool> PropagateDown(bool to_x, bool to_y) const {
    vector<bool> propagate_down(bottom_.size(), false);
    propagate_down[0] = to_x;
    propagate_down[1] = to_y;
    return propagate_down;
  }

  // What the options say of one target, spelled out.
  bool Ignored(Dtype y) const {
    const L1LossParameter& options = param_.l1_loss_param();
    const bool finite = y <= std::numeric_limits<Dtype>::max()
        && y >= -std::numeric_limits<Dtype>::max();
    return (options.ignore_nonfinite_target() && !finite)
        || (options.has_ignore_label()
            && y == static_cast<Dtype>(options.ignore_label()));
  }

  // The weight of element i, found by its coordinates.
  double Weight(int i) const {
    if (bottom_.size() < 3) { return 1; }
    const vector<int> x = L1LossShape(*x_), w = L1LossShape(*w_);
    int offset = 0;
    for (int axis = 0, rest = x_->count(); axis < x.size(); ++axis) {
      rest /= x[axis];
      const int at = i / rest % x[axis];
      if (axis >= w.size()) { continue; }
      offset = offset * w[axis] + (w[axis] == 1 ? 0 : at);
    }
    return w_->cpu_data()[offset];
  }

  double Beta() const { return Dtype(param_.l1_loss_param().beta()); }

  // e of element i, in double.
  double Element(int i) const {
    const double x = x_->cpu_data()[i], y = y_->cpu_data()[i];
    if (Ignored(y_->cpu_data()[i])) { return 0; }
    const double size = x > y ? x - y : y - x, beta = Beta();
    return Weight(i) * (size < beta ? size * size / (2 * beta)
        : size - beta / 2);
  }

  double ExpectedDivisor() const {
    double valid = 0, weights = 0;
    for (int i = 0; i < x_->count(); ++i) {
      if (Ignored(y_->cpu_data()[i])) { continue; }
      valid += Weight(i) != 0;
      weights += Weight(i);
    }
    switch (param_.l1_loss_param().reduction()) {
      case L1LossParameter::BATCHMEAN: return L1LossShape(*x_)[0];
      case L1LossParameter::MEAN: return x_->count();
      case L1LossParameter::VALID_MEAN: return valid;
      case L1LossParameter::WEIGHTED_MEAN: return weights;
      default: return 1;
    }
  }

  double ExpectedLoss() const {
    double sum = 0;
    for (int i = 0; i < x_->count(); ++i) { sum += Element(i); }
    return sum / ExpectedDivisor();
  }

  // The gradient of each element of x, for a scalar top.
  vector<double> ExpectedGradients() const {
    const double divisor = ExpectedDivisor();
    vector<double> gradients(x_->count());
    for (int i = 0; i < x_->count(); ++i) {
      const double x = x_->cpu_data()[i], y = y_->cpu_data()[i];
      double sign = x > y ? 1 : (x < y ? -1 : 0);
      if (std::fabs(x - y) < Beta()) { sign = (x - y) / Beta(); }
      if (Ignored(y_->cpu_data()[i])) { continue; }
      gradients[i] = kLossWeight * Weight(i) * sign / divisor;
    }
    return gradients;
  }

  void CheckLoss() {
    const double expected = ExpectedLoss();
    EXPECT_GE(std::fabs(expected), 1e-1);  // not trivially small
    EXPECT_NEAR(Forward() / expected, kLossWeight, 1e-5 * kLossWeight);
    EXPECT_NEAR(loss_->cpu_data()[0] / expected, 1, 1e-5);
  }

  void CheckGradients() {
    ForwardBackward(true, true);
    const vector<double> expected = ExpectedGradients();
    for (int i = 0; i < x_->count(); ++i) {
      EXPECT_NEAR(x_->cpu_diff()[i], expected[i], 1e-6) << "element " << i;
      EXPECT_NEAR(y_->cpu_diff()[i], -expected[i], 1e-6) << "element " << i;
    }
  }

  // Caffe's numeric gradients of both bottoms, or of x alone.
  void CheckNumerically(int bottoms = 2) {
    for (int bottom = 0; bottom < bottoms; ++bottom) {
      L1LossLayer<Dtype> layer(param_);
      layer.SetUp(bottom_, top_);
      GradientChecker<Dtype> checker(kStep, kThreshold, 1701);
      checker.CheckGradientExhaustive(&layer, bottom_, top_, bottom);
    }
  }

  void CheckEverything() {
    CheckLoss();
    CheckGradients();
    CheckNumerically();
  }

  // Loss 0 and gradient 0, whatever the inputs.
  void CheckNothing() {
    EXPECT_EQ(Forward(), 0);
    ForwardBackward(true, true);
    for (int i = 0; i < x_->count(); ++i) {
      EXPECT_EQ(x_->cpu_diff()[i], 0);
      EXPECT_EQ(y_->cpu_diff()[i], 0);
    }
  }

  static const int kGarbage = 17;

  LayerParameter param_;
  Blob<Dtype>* const x_;
  Blob<Dtype>* const y_;
  Blob<Dtype>* const w_;
  Blob<Dtype>* const loss_;
  vector<Blob<Dtype>*> bottom_;
  vector<Blob<Dtype>*> top_;
};

template <typename TypeParam>
const int L1LossLayerTest<TypeParam>::kGarbage;

TYPED_TEST_CASE(L1LossLayerTest, TestDtypesAndDevices);

// ---- The default: BATCHMEAN -------------------------------------------------

TYPED_TEST(L1LossLayerTest, TestForward) {
  this->CheckLoss();
}

TYPED_TEST(L1LossLayerTest, TestGradient) {
  this->CheckGradients();
  this->CheckNumerically();
}

TYPED_TEST(L1LossLayerTest, TestLossWeightScalesTheLoss) {
  typedef typename TypeParam::Dtype Dtype;
  const Dtype weighted = this->Forward();
  this->param_.clear_loss_weight();  // the default is 1
  const Dtype plain = this->Forward();
  EXPECT_GE(std::fabs(plain), 1e-1);
  EXPECT_NEAR(plain * kLossWeight, weighted, 1e-4);
}

// Two samples of three, by hand: |4-1| + |8-9| + |12-2| + |8+5| + |1+2| + |3-6|
// is 33.
TYPED_TEST(L1LossLayerTest, TestHandComputed) {
  typedef typename TypeParam::Dtype Dtype;
  const Dtype x[] = {4, 8, 12, 8, 1, 3}, y[] = {1, 9, 2, -5, -2, 6};
  const double expected[] = {16.5, 5.5, 33, 5.5, 5.5};
  this->Fill(this->Shape(2, 3));
  caffe_copy(6, x, this->x_->mutable_cpu_data());
  caffe_copy(6, y, this->y_->mutable_cpu_data());
  for (int r = L1LossParameter::BATCHMEAN; r < L1LossParameter::NONE; ++r) {
    this->SetReduction(static_cast<L1LossParameter::Reduction>(r));
    this->Forward();
    EXPECT_NEAR(this->loss_->cpu_data()[0], expected[r], 1e-5)
        << L1LossParameter::Reduction_Name(
            static_cast<L1LossParameter::Reduction>(r));
  }
}

TYPED_TEST(L1LossLayerTest, TestGradientOfEitherBottomAlone) {
  const vector<double> expected = this->ExpectedGradients();
  for (int i = 0; i < 2; ++i) {
    this->ForwardBackward(i == 0, i == 1);
    for (int j = 0; j < this->x_->count(); ++j) {
      EXPECT_NEAR(this->bottom_[i]->cpu_diff()[j],
          (i ? -1 : 1) * expected[j], 1e-6);
      EXPECT_EQ(this->bottom_[1 - i]->cpu_diff()[j], this->kGarbage);
    }
  }
}

TYPED_TEST(L1LossLayerTest, TestInputsAreNotWritten) {
  typedef typename TypeParam::Dtype Dtype;
  Blob<Dtype> x, y;
  x.CopyFrom(*this->x_, false, true);
  y.CopyFrom(*this->y_, false, true);
  this->ForwardBackward(true, true);
  for (int i = 0; i < x.count(); ++i) {
    EXPECT_EQ(x.cpu_data()[i], this->x_->cpu_data()[i]);
    EXPECT_EQ(y.cpu_data()[i], this->y_->cpu_data()[i]);
  }
}

#if L1_LOSS_HAS_SHAPES
// num() would abort here.
TYPED_TEST(L1LossLayerTest, TestMoreThanFourAxes) {
  vector<int> shape = this->Shape(2, 3, 1, 2);
  shape.push_back(2);
  shape.push_back(2);
  this->Fill(shape);
  this->CheckEverything();
}
#endif

// Long enough for every path of the blocked loops, and for their remainders.
TYPED_TEST(L1LossLayerTest, TestManyElements) {
  const vector<int> counts = this->CountsAboutPowersOfTwo();
  for (int k = 0; k < counts.size(); ++k) {
    this->Fill(this->Shape(1, counts[k]));
    for (int beta = 0; beta < 2; ++beta) {
      this->SetBeta(beta);
      this->CheckLoss();
      this->CheckGradients();
    }
  }
}

// Four roundings where terms meet in pairs, one of each difference, and one of
// the loss.
TYPED_TEST(L1LossLayerTest, TestSumIsAccurate) {
  typedef typename TypeParam::Dtype Dtype;
  this->Fill(this->Shape(2, 1 << 19));
  this->SetReduction(L1LossParameter::SUM);
  this->Forward();
  double sum = 0;
  for (int i = 0; i < 1 << 20; ++i) { sum += this->Element(i); }
  const double epsilon = std::numeric_limits<Dtype>::epsilon() / 2;
  EXPECT_NEAR(this->loss_->cpu_data()[0] / sum, 1, 6 * epsilon + 1e-10);
}

// So large that gradients are written past the caches, and a little odd; rows
// of one weight that end where a pack of elements does, and elsewhere; in the
// end a diff in memory of the user's, which does not begin where a pack may.
TYPED_TEST(L1LossLayerTest, TestLargeGradient) {
  typedef typename TypeParam::Dtype Dtype;
  const int count = (8 << 20) / 4 + 301;
  const int rows[] = {count / 3, 100, 75, 100};
  vector<Dtype> memory(count + 1);
  this->Fill(this->Shape(3, count / 3));
  this->SetReduction(L1LossParameter::SUM);
  for (int k = 0; k < 4; ++k) {
    if (k == 3) { this->x_->diff()->set_cpu_data(&memory[1]); }
    const vector<int> shape = this->Shape(count / rows[k], rows[k]);
    L1LossReshape(shape, this->x_);
    L1LossReshape(shape, this->y_);
    this->FillWeights(this->Shape(shape[0]));
    this->ForwardBackward(true, true);
    const Dtype* x = this->x_->cpu_data();
    const Dtype* y = this->y_->cpu_data();
    int wrong = 0;
    for (int i = 0; i < this->x_->count(); ++i) {
      const double weight = this->w_->cpu_data()[i / rows[k]];
      const double expected = kLossWeight * weight * (x[i] > y[i] ? 1 : -1);
      wrong += std::fabs(this->x_->cpu_diff()[i] - expected) > 1e-6;
      wrong += std::fabs(this->y_->cpu_diff()[i] + expected) > 1e-6;
    }
    EXPECT_EQ(wrong, 0) << "rows of " << rows[k];
    this->bottom_.pop_back();
  }
}

TYPED_TEST(L1LossLayerTest, TestSignOfZeroIsZero) {
  caffe_copy(this->x_->count(), this->x_->cpu_data(),
      this->y_->mutable_cpu_data());
  this->CheckNothing();
}

TYPED_TEST(L1LossLayerTest, TestNaNInAPredictionIsNotHidden) {
  typedef typename TypeParam::Dtype Dtype;
  const Dtype nan = std::numeric_limits<Dtype>::quiet_NaN();
  this->x_->mutable_cpu_data()[7] = nan;
  const Dtype loss = this->Forward();
  EXPECT_NE(loss, loss);
  this->ForwardBackward(true, true);
  for (int i = 0; i < this->x_->count(); ++i) {
    const Dtype g = this->x_->cpu_diff()[i], h = this->y_->cpu_diff()[i];
    EXPECT_EQ(g != g, i == 7);
    EXPECT_EQ(h != h, i == 7);
  }
}

TYPED_TEST(L1LossLayerTest, TestInfinityInAPredictionIsNotHidden) {
  typedef typename TypeParam::Dtype Dtype;
  const Dtype infinity = std::numeric_limits<Dtype>::infinity();
  this->x_->mutable_cpu_data()[7] = infinity;
  EXPECT_EQ(this->Forward(), infinity);
}

// Eight such terms together are beyond float, their mean is not.
TYPED_TEST(L1LossLayerTest, TestMeanOfHugeNumbers) {
  this->Fill(this->Shape(4, 256));
  caffe_set(1024, typename TypeParam::Dtype(3e38),
      this->x_->mutable_cpu_data());
  caffe_set(1024, typename TypeParam::Dtype(0), this->y_->mutable_cpu_data());
  this->SetReduction(L1LossParameter::MEAN);
  this->Forward();
  EXPECT_NEAR(this->loss_->cpu_data()[0] / 3e38, 1, 1e-6);
}

TYPED_TEST(L1LossLayerTest, TestBatchSizeChanges) {
  typedef typename TypeParam::Dtype Dtype;
  L1LossLayer<Dtype> layer(this->param_);
  layer.SetUp(this->bottom_, this->top_);
  const int batches[] = {3, 7, 1, 5};
  for (int i = 0; i < 4; ++i) {
    this->Fill(this->Shape(batches[i], 4));
    layer.Reshape(this->bottom_, this->top_);  // which in 2015 is the net's
    layer.Forward(this->bottom_, this->top_);
    EXPECT_NEAR(this->loss_->cpu_data()[0], this->ExpectedLoss(), 1e-4);
    layer.Backward(this->top_, this->PropagateDown(true, true), this->bottom_);
    const vector<double> expected = this->ExpectedGradients();
    for (int j = 0; j < this->x_->count(); ++j) {
      EXPECT_NEAR(this->x_->cpu_diff()[j], expected[j], 1e-6);
    }
  }
}

// Nothing says yet by what to divide.
TYPED_TEST(L1LossLayerTest, TestBackwardBeforeForward) {
  typedef typename TypeParam::Dtype Dtype;
  L1LossLayer<Dtype> layer(this->param_);
  layer.SetUp(this->bottom_, this->top_);
  this->Spoil();
  layer.Backward(this->top_, this->PropagateDown(true, true), this->bottom_);
  for (int i = 0; i < this->x_->count(); ++i) {
    EXPECT_EQ(this->x_->cpu_diff()[i], 0);
    EXPECT_EQ(this->y_->cpu_diff()[i], 0);
  }
}

#if L1_LOSS_HAS_EMPTY_BLOBS
// Blobs that were never allocated are not touched: that would abort.
TYPED_TEST(L1LossLayerTest, TestEmptyBatch) {
  typedef typename TypeParam::Dtype Dtype;
  vector<int> empty(2, 3);
  empty[0] = 0;
  Blob<Dtype> x(empty), y(empty);
  this->bottom_[0] = &x;
  this->bottom_[1] = &y;
  for (int r = L1LossParameter::BATCHMEAN; r < L1LossParameter::NONE; ++r) {
    this->SetReduction(static_cast<L1LossParameter::Reduction>(r));
    EXPECT_EQ(this->Forward(), 0);
    this->ForwardBackward(true, true);
  }
}

// Here Caffe writes the loss_weight into no element, and the net must learn
// from those that come later.
TYPED_TEST(L1LossLayerTest, TestEmptyBatchUnreduced) {
  typedef typename TypeParam::Dtype Dtype;
  vector<int> empty(2, 3);
  empty[0] = 0;
  L1LossReshape(empty, this->x_);
  L1LossReshape(empty, this->y_);
  Blob<Dtype> loss;
  this->top_[0] = &loss;
  this->SetReduction(L1LossParameter::NONE);
  L1LossLayer<Dtype> layer(this->param_);
  layer.SetUp(this->bottom_, this->top_);
  const int batches[] = {0, 1, 0, 4, 2};
  for (int i = 0; i < 5; ++i) {
    vector<int> shape(2, 3);
    shape[0] = batches[i];
    L1LossReshape(shape, this->x_);
    L1LossReshape(shape, this->y_);
    if (batches[i]) { this->Fill(shape); }
    layer.Forward(this->bottom_, this->top_);
    EXPECT_EQ(loss.shape(), shape);
    layer.Backward(this->top_, this->PropagateDown(true, false), this->bottom_);
    for (int j = 0; j < this->x_->count(); ++j) {
      EXPECT_NEAR(std::fabs(this->x_->cpu_diff()[j]), kLossWeight, 1e-6);
    }
  }
}

TYPED_TEST(L1LossLayerTest, TestEmptyMergedAxes) {
  const int fine[] = {2, 4, 0}, coarse[] = {2, 0}, other[] = {2, 4};
  L1LossReshape(vector<int>(fine, fine + 3), this->x_);
  L1LossReshape(vector<int>(coarse, coarse + 2), this->y_);
  EXPECT_EQ(this->Forward(), 0);
  L1LossReshape(vector<int>(other, other + 2), this->y_);
  EXPECT_DEATH(this->Forward(), "\\(2, 4, 0\\) and targets \\(2, 4\\) do not");
}

#endif

// ---- Shapes -----------------------------------------------------------------

TYPED_TEST(L1LossLayerTest, TestShapesInTheSameOrder) {
  this->Fill(this->Shape(2, 3, 4));
  const vector<int> targets[] = {this->Shape(2, 12), this->Shape(2, 1, 3, 4),
      this->Shape(2, 3, 4, 1), this->Shape(2, 1, 12)};
  for (int i = 0; i < 4; ++i) {
    L1LossReshape(targets[i], this->y_);
    this->CheckLoss();
    this->CheckGradients();
  }
}

TYPED_TEST(L1LossLayerTest, TestShapesInAnotherOrderAreRefused) {
  this->Fill(this->Shape(2, 3, 4));
  const vector<int> targets[] = {this->Shape(2, 4, 3), this->Shape(24),
      this->Shape(3, 2, 4), this->Shape(2, 3), this->Shape(2, 2, 6)};
  for (int i = 0; i < 5; ++i) {
    L1LossReshape(targets[i], this->y_);
    EXPECT_DEATH(this->Forward(), "L1Loss layer \"loss\": predictions "
        "\\(2, 3, 4(, 1)?\\) and targets \\(.*\\) do not match; fix: ");
  }
}

TYPED_TEST(L1LossLayerTest, TestInPlaceIsRefused) {
  for (int i = 0; i < 2; ++i) {
    this->top_[0] = this->bottom_[i];
    EXPECT_DEATH(this->Forward(), i ? "top\\[0\\] is bottom\\[1\\]; fix: "
        : "top\\[0\\] is bottom\\[0\\]; fix: ");
  }
}

// ---- Reductions, weights and masks ------------------------------------------

TYPED_TEST(L1LossLayerTest, TestMean) {
  this->SetReduction(L1LossParameter::MEAN);
  this->CheckEverything();
}

TYPED_TEST(L1LossLayerTest, TestSum) {
  this->SetReduction(L1LossParameter::SUM);
  this->CheckLoss();
  this->CheckGradients();
}

TYPED_TEST(L1LossLayerTest, TestValidMean) {
  this->SetReduction(L1LossParameter::VALID_MEAN);
  this->FillWeights(this->Shape(3, 2, 5, 2));
  this->CheckEverything();
}

TYPED_TEST(L1LossLayerTest, TestWeightedMean) {
  this->SetReduction(L1LossParameter::WEIGHTED_MEAN);
  this->FillWeights(this->Shape(3, 2, 5, 2));
  this->CheckEverything();
}

TYPED_TEST(L1LossLayerTest, TestWeightsAreBroadcast) {
  const vector<int> shapes[] = {this->Shape(3), this->Shape(1, 2),
      this->Shape(3, 1, 5), this->Shape(1, 1, 5, 2), this->Shape(3, 2, 1, 2),
      this->Shape(1), vector<int>()};
  for (int i = 0; i < 7; ++i) {
    this->FillWeights(shapes[i]);
    for (int r = L1LossParameter::BATCHMEAN; r < L1LossParameter::NONE; ++r) {
      this->SetReduction(static_cast<L1LossParameter::Reduction>(r));
      this->CheckLoss();
      this->CheckGradients();
    }
    this->bottom_.pop_back();
  }
}

// Broadcast over blocks that no row fits evenly into.
TYPED_TEST(L1LossLayerTest, TestWeightsOfManyElements) {
  this->Fill(this->Shape(7, 3, 119));
  this->SetReduction(L1LossParameter::WEIGHTED_MEAN);
  const vector<int> shapes[] = {this->Shape(7), this->Shape(1, 3),
      this->Shape(7, 1, 119), this->Shape(1, 1, 119), this->Shape(7, 3, 119)};
  for (int i = 0; i < 5; ++i) {
    this->FillWeights(shapes[i]);
    this->CheckLoss();
    this->CheckGradients();
    this->bottom_.pop_back();
  }
}

// The GPU divides by multiplying, up to the largest number of elements.
TYPED_TEST(L1LossLayerTest, TestIndicesOfBroadcastWeights) {
  for (int shift = 2; shift < 30; ++shift) {
    for (int size = (1 << shift) - 1; size <= (1 << shift) + 1; ++size) {
      const int rows = std::numeric_limits<int>::max() / size;
      const L1LossBroadcast map = L1LossMakeBroadcast(
          this->Shape(rows, size), this->Shape(rows));
      for (int row = 0; row < rows; row += rows / 50 + 1) {
        EXPECT_EQ(map.index(row * size), row);
        EXPECT_EQ(map.index(row * size + size - 1), row);
      }
      EXPECT_EQ(map.index(rows * size - 1), rows - 1);
    }
  }
}

// Large weights of either sign, which cancel, among ones: the ones are lost if
// they meet the large ones in Dtype.
TYPED_TEST(L1LossLayerTest, TestWeightsThatCancel) {
  typedef typename TypeParam::Dtype Dtype;
  const int count = 131072;
  this->Fill(this->Shape(2, count / 2));
  caffe_set(count, Dtype(1), this->x_->mutable_cpu_data());
  caffe_set(count, Dtype(0), this->y_->mutable_cpu_data());
  this->FillWeights(this->Shape(2, count / 2));
  Dtype* w = this->w_->mutable_cpu_data();
  for (int i = 0; i < count; ++i) {
    w[i] = i % 32 ? 1 : (i % 64 ? 1e8 : -1e8);
  }
  const Dtype ones = count - count / 32;
  this->SetReduction(L1LossParameter::SUM);
  EXPECT_NEAR(this->Forward() / kLossWeight, ones, 1e-6 * ones);
  this->SetReduction(L1LossParameter::WEIGHTED_MEAN);
  EXPECT_NEAR(this->Forward() / kLossWeight, 1, 1e-6);
  this->ForwardBackward(true, true);
  EXPECT_NEAR(this->x_->cpu_diff()[1] * ones, kLossWeight, 1e-6 * kLossWeight);
}

// Weights so small, and so large, that their products or 1 / Z are beyond the
// range of Dtype; neither the loss nor the gradients are.
TYPED_TEST(L1LossLayerTest, TestWeightsOfAnyMagnitude) {
  typedef typename TypeParam::Dtype Dtype;
  const double magnitudes[] = {1e-310, 1e-41, 1e-30, 3e38};
  const int counts[] = {8, 8, 8, 10000};
  this->SetReduction(L1LossParameter::WEIGHTED_MEAN);
  for (int k = Dtype(magnitudes[0]) == 0; k < 4; ++k) {  // 1e-310 is no float
    const int count = counts[k];
    this->Fill(this->Shape(2, count / 2));
    caffe_set(count, Dtype(5), this->x_->mutable_cpu_data());
    caffe_set(count, Dtype(-5), this->y_->mutable_cpu_data());
    for (int broadcast = 0; broadcast < 2; ++broadcast) {
      this->FillWeights(broadcast ? this->Shape(2) : this->Shape(2, count / 2));
      caffe_set(this->w_->count(), Dtype(magnitudes[k]),
          this->w_->mutable_cpu_data());
      EXPECT_NEAR(this->Forward(), 10 * kLossWeight, 1e-5 * kLossWeight);
      this->ForwardBackward(true, true);
      for (int i = 0; i < count; ++i) {
        ASSERT_NEAR(this->x_->cpu_diff()[i] * count, kLossWeight,
            1e-6 * kLossWeight) << magnitudes[k];
        ASSERT_EQ(this->y_->cpu_diff()[i], -this->x_->cpu_diff()[i]);
      }
      this->bottom_.pop_back();
    }
  }
}

TYPED_TEST(L1LossLayerTest, TestWeightsOfAnotherShapeAreRefused) {
  this->FillWeights(this->Shape(2));
  EXPECT_DEATH(this->Forward(), "weights \\(2,.*\\) do not match predictions "
      "\\(3, 2, 5, 2\\); fix: ");
}

TYPED_TEST(L1LossLayerTest, TestWeightsGetNoGradient) {
  typedef typename TypeParam::Dtype Dtype;
  this->FillWeights(this->Shape(3));
  L1LossLayer<Dtype> layer(this->param_);
  layer.SetUp(this->bottom_, this->top_);
  layer.Forward(this->bottom_, this->top_);
  EXPECT_DEATH(layer.Backward(this->top_, vector<bool>(3, true),
      this->bottom_), "weights get no gradient; fix: ");
  EXPECT_TRUE(layer.AllowForceBackward(0));
  EXPECT_TRUE(layer.AllowForceBackward(1));
  EXPECT_FALSE(layer.AllowForceBackward(2));
}

TYPED_TEST(L1LossLayerTest, TestIgnoreLabel) {
  this->param_.mutable_l1_loss_param()->set_ignore_label(-0.1);
  for (int i = 0; i < this->x_->count(); i += 4) {
    this->y_->mutable_cpu_data()[i] = -0.1;
    this->x_->mutable_cpu_data()[i] = 5;
  }
  for (int r = L1LossParameter::BATCHMEAN; r < L1LossParameter::NONE; ++r) {
    this->SetReduction(static_cast<L1LossParameter::Reduction>(r));
    this->CheckLoss();
    this->CheckGradients();
    this->CheckNumerically(1);  // a step of y would leave the label
  }
}

TYPED_TEST(L1LossLayerTest, TestIgnoreNonfiniteTarget) {
  typedef typename TypeParam::Dtype Dtype;
  this->param_.mutable_l1_loss_param()->set_ignore_nonfinite_target(true);
  Dtype* y = this->y_->mutable_cpu_data();
  y[0] = std::numeric_limits<Dtype>::quiet_NaN();
  y[5] = std::numeric_limits<Dtype>::infinity();
  y[6] = -std::numeric_limits<Dtype>::infinity();
  this->FillWeights(this->Shape(3, 2, 5, 2));
  for (int r = L1LossParameter::BATCHMEAN; r < L1LossParameter::NONE; ++r) {
    this->SetReduction(static_cast<L1LossParameter::Reduction>(r));
    this->CheckEverything();
  }
}

// By selection, not by multiplying with 0.
TYPED_TEST(L1LossLayerTest, TestIgnoredNaNIsGone) {
  typedef typename TypeParam::Dtype Dtype;
  const Dtype nan = std::numeric_limits<Dtype>::quiet_NaN();
  this->param_.mutable_l1_loss_param()->set_ignore_nonfinite_target(true);
  this->FillWeights(this->Shape(3, 2, 5, 2));
  this->x_->mutable_cpu_data()[4] = nan;
  this->y_->mutable_cpu_data()[4] = nan;
  this->w_->mutable_cpu_data()[4] = nan;
  this->CheckLoss();
  this->CheckGradients();
}

// Many elements of one weight, as of one sample.
TYPED_TEST(L1LossLayerTest, TestIgnoredWeightIsGone) {
  typedef typename TypeParam::Dtype Dtype;
  const double gone[] = {std::numeric_limits<double>::infinity(),
      std::numeric_limits<double>::quiet_NaN()};
  this->Fill(this->Shape(2, 100));
  this->param_.mutable_l1_loss_param()->set_ignore_label(2);
  caffe_set(100, Dtype(2), this->y_->mutable_cpu_data() + 100);
  this->FillWeights(this->Shape(2));
  this->w_->mutable_cpu_data()[0] = 1;
  for (int k = 0; k < 2; ++k) {
    for (int r = L1LossParameter::BATCHMEAN; r < L1LossParameter::NONE; ++r) {
      this->SetReduction(static_cast<L1LossParameter::Reduction>(r));
      this->w_->mutable_cpu_data()[1] = gone[k];
      this->CheckLoss();
      this->CheckGradients();
    }
  }
}

TYPED_TEST(L1LossLayerTest, TestEverythingIgnored) {
  this->param_.mutable_l1_loss_param()->set_ignore_label(2);
  caffe_set(this->y_->count(), typename TypeParam::Dtype(2),
      this->y_->mutable_cpu_data());
  for (int r = L1LossParameter::BATCHMEAN; r < L1LossParameter::NONE; ++r) {
    this->SetReduction(static_cast<L1LossParameter::Reduction>(r));
    this->CheckNothing();
  }
}

TYPED_TEST(L1LossLayerTest, TestAllWeightsZero) {
  this->FillWeights(this->Shape(3));
  caffe_set(3, typename TypeParam::Dtype(0), this->w_->mutable_cpu_data());
  for (int r = L1LossParameter::BATCHMEAN; r < L1LossParameter::NONE; ++r) {
    this->SetReduction(static_cast<L1LossParameter::Reduction>(r));
    this->CheckNothing();
  }
}

// Divided by 0, even a NaN that would not be hidden is nothing.
TYPED_TEST(L1LossLayerTest, TestNaNOfWeightZeroIsNothingDividedByZero) {
  typedef typename TypeParam::Dtype Dtype;
  this->FillWeights(this->Shape(3));
  caffe_set(3, Dtype(0), this->w_->mutable_cpu_data());
  this->x_->mutable_cpu_data()[7] = std::numeric_limits<Dtype>::quiet_NaN();
  this->SetReduction(L1LossParameter::VALID_MEAN);
  this->CheckNothing();
  this->SetReduction(L1LossParameter::WEIGHTED_MEAN);
  this->CheckNothing();
}

// ---- beta -------------------------------------------------------------------

// The numeric gradient too, where x meets y and where |x - y| is beta.
TYPED_TEST(L1LossLayerTest, TestSmooth) {
  typedef typename TypeParam::Dtype Dtype;
  const double betas[] = {0.5, 1, 100};
  const vector<int> weights[] = {vector<int>(), this->Shape(3, 2, 5, 2),
      this->Shape(3)};
  this->param_.mutable_l1_loss_param()->set_ignore_nonfinite_target(true);
  for (int k = 0; k < 3; ++k) {
    this->SetBeta(betas[k]);
    Dtype* x = this->x_->mutable_cpu_data();
    Dtype* y = this->y_->mutable_cpu_data();
    x[0] = y[0];
    x[1] = y[1] + betas[k];
    x[2] = y[2] - betas[k];
    x[3] = y[3] + kStep / 2;
    y[4] = std::numeric_limits<Dtype>::infinity();
    if (k > 0) { this->FillWeights(weights[k]); }
    for (int r = L1LossParameter::BATCHMEAN; r < L1LossParameter::NONE; ++r) {
      this->SetReduction(static_cast<L1LossParameter::Reduction>(r));
      const double scale = r == L1LossParameter::SUM ? 10 : 1;  // of the loss
      EXPECT_NEAR(this->Forward() / kLossWeight, this->ExpectedLoss(),
          1e-5 * scale * this->ExpectedLoss());
      this->CheckGradients();
    }
    this->SetReduction(L1LossParameter::BATCHMEAN);
    this->CheckNumerically();
    if (k > 0) { this->bottom_.pop_back(); }
  }
}

TYPED_TEST(L1LossLayerTest, TestSmoothUnreduced) {
  this->SetReduction(L1LossParameter::NONE);
  this->SetBeta(1);
  this->Fill(this->Shape(2, 3, 2, 2));
  this->FillWeights(this->Shape(2, 3));
  this->x_->mutable_cpu_data()[0] = this->y_->cpu_data()[0];
  this->Forward();
  for (int i = 0; i < this->x_->count(); ++i) {
    EXPECT_NEAR(this->loss_->cpu_data()[i], this->Element(i), 1e-5);
  }
  this->CheckNumerically();
  this->param_.mutable_l1_loss_param()->set_axis(2);
  this->CheckNumerically();
}

// In float: what would overflow or vanish on the way is right, and from beta
// on the gradient is exactly that of the plain loss.
TYPED_TEST(L1LossLayerTest, TestSmoothAtTheEndsOfTheRange) {
  typedef typename TypeParam::Dtype Dtype;
  const Dtype infinity = std::numeric_limits<Dtype>::infinity();
  const Dtype nan = std::numeric_limits<Dtype>::quiet_NaN();
  const Dtype cases[][4] = {  // x - y, beta, e and the slope
    {0, 1, 0, 0}, {1e38, 1, 1e38, 1}, {-1e38, 2e38, 2.5e37, -0.5},
    {1, 1e30, 5e-31, 1e-30}, {3, 1e-45, 3, 1}, {-3e38, 3e38, 1.5e38, -1},
    {infinity, 1, infinity, 1}, {-infinity, 3e38, infinity, -1},
    {nan, 1, nan, nan}, {2, 1e-300, 2, 1}};
  this->Fill(this->Shape(1, 37));
  for (int k = 0; k < 10; ++k) {
    this->SetBeta(k == 9 ? 1e-300 : cases[k][1]);
    caffe_set(37, cases[k][0], this->x_->mutable_cpu_data());
    caffe_set(37, Dtype(0), this->y_->mutable_cpu_data());
    this->SetReduction(L1LossParameter::MEAN);
    this->Forward();
    const Dtype mean = this->loss_->cpu_data()[0];
    // Not in double, as a sum that has left the range.
    this->SetReduction(L1LossParameter::NONE);
    this->Forward();
    const Dtype one = this->loss_->cpu_data()[0];
    EXPECT_TRUE(one == mean || mean != mean
        || std::fabs(one / mean - 1) < 1e-6) << k << ": " << one;
    this->SetReduction(L1LossParameter::SUM);
    this->ForwardBackward(true, true);
    for (int i = 0; i < 37; ++i) {
      const Dtype slope = this->x_->cpu_diff()[i] / Dtype(kLossWeight);
      const double expected = cases[k][3];
      if (expected != expected) {
        EXPECT_NE(mean, mean);
        EXPECT_NE(slope, slope);
        continue;
      }
      EXPECT_TRUE(mean == cases[k][2]
          || std::fabs(mean / cases[k][2] - 1) < 1e-6) << k << ": " << mean;
      EXPECT_LE(std::fabs(slope - expected), 1e-6 * std::fabs(expected)) << k;
    }
  }
}

TYPED_TEST(L1LossLayerTest, TestBetaIsFromZeroToTheLargestFloat) {
  const double wrong[] = {-1, 3.5e38, std::numeric_limits<double>::infinity(),
      std::numeric_limits<double>::quiet_NaN()};
  for (int k = 0; k < 4; ++k) {
    this->SetBeta(wrong[k]);
    EXPECT_DEATH(this->Forward(), "option \"beta\" is .*; allowed: a number "
        "from 0 to 3.4028234663852886e\\+38");
  }
}

// ---- NONE -------------------------------------------------------------------

TYPED_TEST(L1LossLayerTest, TestUnreduced) {
  this->SetReduction(L1LossParameter::NONE);
  this->Fill(this->Shape(2, 3, 2, 2));
  this->FillWeights(this->Shape(2, 3));
  this->Forward();
  EXPECT_EQ(L1LossShape(*this->loss_), L1LossShape(*this->x_));
  for (int i = 0; i < this->x_->count(); ++i) {
    EXPECT_NEAR(this->loss_->cpu_data()[i], this->Element(i), 1e-5);
  }
  this->CheckNumerically();
}

TYPED_TEST(L1LossLayerTest, TestUnreducedMeansOverAxes) {
  this->SetReduction(L1LossParameter::NONE);
  this->Fill(this->Shape(2, 3, 2, 2));
  this->FillWeights(this->Shape(2, 1, 2, 2));
  for (int axis = -4; axis < 4; ++axis) {
    this->param_.mutable_l1_loss_param()->set_axis(axis);
    this->Forward();
    vector<int> shape = L1LossShape(*this->x_);
    shape.resize((axis + 4) % 4);
    Blob<typename TypeParam::Dtype> expected;
    L1LossReshape(shape, &expected);
    EXPECT_EQ(L1LossShape(*this->loss_), L1LossShape(expected));
    const int rows = expected.count();
    const int row = this->x_->count() / rows;
    ASSERT_EQ(this->loss_->count(), rows);
    for (int r = 0; r < rows; ++r) {
      double sum = 0;
      for (int i = 0; i < row; ++i) { sum += this->Element(r * row + i); }
      EXPECT_NEAR(this->loss_->cpu_data()[r], sum / row, 1e-5);
    }
    this->CheckNumerically();
  }
}

// Rows that end within blocks, and rows that are longer than one.
TYPED_TEST(L1LossLayerTest, TestUnreducedMeansOfManyElements) {
  this->SetReduction(L1LossParameter::NONE);
  this->param_.mutable_l1_loss_param()->set_axis(1);
  vector<int> rows = this->CountsAboutPowersOfTwo();
  rows.push_back(2);
  rows.push_back(3);
  for (int k = 0; k < rows.size(); ++k) {
    this->Fill(this->Shape(5, rows[k]));
    this->Forward();
    for (int r = 0; r < 5; ++r) {
      double sum = 0;
      for (int i = r * rows[k]; i < (r + 1) * rows[k]; ++i) {
        sum += this->Element(i);
      }
      ASSERT_NEAR(this->loss_->cpu_data()[r], sum / rows[k], 1e-5);
    }
  }
}

// More rows than blocks that a device has at a time, and a few that are long.
TYPED_TEST(L1LossLayerTest, TestUnreducedMeansOfManyRows) {
  this->SetReduction(L1LossParameter::NONE);
  this->param_.mutable_l1_loss_param()->set_axis(1);
  const int rows[] = {1030, 5000, 3}, row[] = {5, 3, 30000};
  for (int k = 0; k < 3; ++k) {
    this->Fill(this->Shape(rows[k], row[k]));
    this->ForwardBackward(true, true);
    const int count = rows[k] * row[k];
    double sum = 0;
    for (int i = 0; i < count; ++i) {
      sum += this->Element(i);
      const double sign = this->x_->cpu_data()[i] > this->y_->cpu_data()[i]
          ? 1 : -1;
      ASSERT_NEAR(this->x_->cpu_diff()[i] * row[k], kLossWeight * sign, 1e-5);
      if (i % row[k] != row[k] - 1) { continue; }
      ASSERT_NEAR(this->loss_->cpu_data()[i / row[k]], sum / row[k], 1e-5);
      sum = 0;
    }
  }
}

TYPED_TEST(L1LossLayerTest, TestUnreducedManyElements) {
  this->SetReduction(L1LossParameter::NONE);
  this->Fill(this->Shape(2, 150001));
  this->Forward();
  for (int i = 0; i < this->x_->count(); ++i) {
    ASSERT_NEAR(this->loss_->cpu_data()[i], this->Element(i), 1e-5);
  }
}

TYPED_TEST(L1LossLayerTest, TestNaNInTheDiffOfAnIgnoredElementIsGone) {
  typedef typename TypeParam::Dtype Dtype;
  this->SetReduction(L1LossParameter::NONE);
  this->param_.mutable_l1_loss_param()->set_ignore_label(2);
  this->y_->mutable_cpu_data()[4] = 2;
  L1LossLayer<Dtype> layer(this->param_);
  layer.SetUp(this->bottom_, this->top_);
  layer.Forward(this->bottom_, this->top_);
  this->loss_->mutable_cpu_diff()[4] = std::numeric_limits<Dtype>::quiet_NaN();
  layer.Backward(this->top_, this->PropagateDown(true, true), this->bottom_);
  EXPECT_EQ(this->x_->cpu_diff()[4], 0);
  EXPECT_EQ(this->y_->cpu_diff()[4], 0);
}

// A larger top gets a new diff; the loss_weight must be in that one too.
TYPED_TEST(L1LossLayerTest, TestUnreducedKeepsItsLossWeight) {
  typedef typename TypeParam::Dtype Dtype;
  this->SetReduction(L1LossParameter::NONE);
  L1LossLayer<Dtype> layer(this->param_);
  layer.SetUp(this->bottom_, this->top_);
  const int batches[] = {2, 9, 1, 30};
  for (int i = 0; i < 4; ++i) {
    this->Fill(this->Shape(batches[i], 40));
    layer.Reshape(this->bottom_, this->top_);  // which in 2015 is the net's
    layer.Forward(this->bottom_, this->top_);
    layer.Backward(this->top_, this->PropagateDown(true, false), this->bottom_);
    for (int j = 0; j < this->x_->count(); ++j) {
      ASSERT_NEAR(std::fabs(this->x_->cpu_diff()[j]), kLossWeight, 1e-6);
    }
  }
}

TYPED_TEST(L1LossLayerTest, TestAxisNeedsNone) {
  this->param_.mutable_l1_loss_param()->set_axis(1);
  EXPECT_DEATH(this->Forward(), "option \"axis\" needs \"reduction\": "
      "\"NONE\", not \"BATCHMEAN\"");
}

TYPED_TEST(L1LossLayerTest, TestAxisOutOfRange) {
  this->SetReduction(L1LossParameter::NONE);
  this->param_.mutable_l1_loss_param()->set_axis(4);
  EXPECT_DEATH(this->Forward(), "option \"axis\" is 4; allowed: -4 to 3 for "
      "predictions of shape \\(3, 2, 5, 2\\)");
}

// ---- Threads ----------------------------------------------------------------

// So many that more than one thread walks them, if compiled with OpenMP.
static const int kManyRows = 401, kManyColumns = 1367;

#ifdef _OPENMP
static void SetThreads(int threads) { omp_set_num_threads(threads); }
#else
static void SetThreads(int /* threads */) {}
#endif

// All bits that a forward and a backward pass compute.
template <typename Dtype>
static vector<Dtype> Passes(const LayerParameter& param,
    const vector<Blob<Dtype>*>& bottom, const vector<Blob<Dtype>*>& top) {
  L1LossLayer<Dtype> layer(param);
  layer.SetUp(bottom, top);
  layer.Forward(bottom, top);
  vector<bool> propagate_down(bottom.size(), false);
  propagate_down[0] = propagate_down[1] = true;
  layer.Backward(top, propagate_down, bottom);
  vector<Dtype> result(top[0]->cpu_data(),
      top[0]->cpu_data() + top[0]->count());
  for (int i = 0; i < 2; ++i) {
    result.insert(result.end(), bottom[i]->cpu_diff(),
        bottom[i]->cpu_diff() + bottom[i]->count());
  }
  return result;
}

template <typename Dtype>
static bool SameBits(const vector<Dtype>& a, const vector<Dtype>& b) {
  return a.size() == b.size()
      && memcmp(&a[0], &b[0], a.size() * sizeof(Dtype)) == 0;
}

TYPED_TEST(L1LossLayerTest, TestEveryNumberOfThreadsComputesTheSameBits) {
  typedef typename TypeParam::Dtype Dtype;
  const int threads[] = {2, 3, 8};
  const bool cpu = Caffe::mode() == Caffe::CPU;
  const int runs = cpu ? 3 : 1, columns = cpu ? kManyColumns : 75;
  this->Fill(this->Shape(kManyRows, columns));
  this->param_.mutable_l1_loss_param()->set_ignore_nonfinite_target(true);
  this->y_->mutable_cpu_data()[1000] = std::numeric_limits<Dtype>::infinity();
  const vector<int> weights[] = {vector<int>(), this->Shape(kManyRows),
      this->Shape(kManyRows, columns)};
  for (int w = 0; w < 3; ++w) {
    if (w > 0) { this->FillWeights(weights[w]); }
    for (int r = 0; r <= L1LossParameter::NONE + 1; ++r) {
      this->param_.mutable_l1_loss_param()->clear_axis();
      this->SetReduction(static_cast<L1LossParameter::Reduction>(
          std::min<int>(r, L1LossParameter::NONE)));
      if (r > L1LossParameter::NONE) {
        this->param_.mutable_l1_loss_param()->set_axis(1);
      }
      SetThreads(1);
      const vector<Dtype> expected =
          Passes(this->param_, this->bottom_, this->top_);
      for (int i = 0; i < runs; ++i) {
        SetThreads(threads[i]);
        EXPECT_TRUE(SameBits(Passes(this->param_, this->bottom_, this->top_),
            expected)) << threads[i] << " threads, reduction " << r;
      }
    }
    if (w > 0) { this->bottom_.pop_back(); }
  }
  SetThreads(1);
}

#ifndef _WIN32
// OpenMP's threads are not the child's, and GCC's library does not notice.
TYPED_TEST(L1LossLayerTest, TestAForkedChildComputesToo) {
  this->Fill(this->Shape(kManyRows, kManyColumns));
  SetThreads(3);
  const typename TypeParam::Dtype loss = this->Forward();
  if (Caffe::mode() == Caffe::CPU) {  // CUDA itself does not survive a fork
    EXPECT_EXIT({
      alarm(60);
      _exit(this->Forward() == loss ? 0 : 1);
    }, ::testing::ExitedWithCode(0), "");
  }
  EXPECT_EQ(this->Forward(), loss);
  SetThreads(1);
}
#endif

// As a solver for each GPU has it, and in a parallel region of the user's.
template <typename Dtype>
class SolverOfItsOwn {
 public:
  SolverOfItsOwn(const LayerParameter& param, const Blob<Dtype>& x,
      const Blob<Dtype>& y) : param_(param) {
    x_.CopyFrom(x, false, true);
    y_.CopyFrom(y, false, true);
    bottom_.push_back(&x_);
    bottom_.push_back(&y_);
    top_.push_back(&loss_);
  }
  void Run() {
    for (int i = 0; i < 5; ++i) { result_ = Passes(param_, bottom_, top_); }
  }
  vector<Dtype> result_;

 private:
  const LayerParameter param_;
  Blob<Dtype> x_, y_, loss_;
  vector<Blob<Dtype>*> bottom_, top_;
};

TYPED_TEST(L1LossLayerTest, TestSeveralSolversAtOnce) {
  typedef typename TypeParam::Dtype Dtype;
  typedef SolverOfItsOwn<Dtype> Solver;
  if (Caffe::mode() != Caffe::CPU) { return; }
  this->Fill(this->Shape(kManyRows, kManyColumns));
  const vector<Dtype> expected =
      Passes(this->param_, this->bottom_, this->top_);
  vector<shared_ptr<Solver> > solvers;
  for (int i = 0; i < 3; ++i) {
    solvers.push_back(shared_ptr<Solver>(
        new Solver(this->param_, *this->x_, *this->y_)));
  }
  boost::thread_group threads;
  for (int i = 0; i < 3; ++i) {
    threads.create_thread(boost::bind(&Solver::Run, &*solvers[i]));
  }
  threads.join_all();
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(SameBits(solvers[i]->result_, expected));
    solvers[i]->result_.clear();
  }
#ifdef _OPENMP
#pragma omp parallel for num_threads(3)
#endif
  for (int i = 0; i < 3; ++i) { solvers[i]->Run(); }
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(SameBits(solvers[i]->result_, expected));
  }
}

// ---- Options ----------------------------------------------------------------

TYPED_TEST(L1LossLayerTest, TestLabelMustBeFinite) {
  this->param_.mutable_l1_loss_param()->set_ignore_label(
      std::numeric_limits<double>::infinity());
  EXPECT_DEATH(this->Forward(), "option \"ignore_label\" is inf; allowed: a "
      "finite number");
}

#if L1_LOSS_HAS_PARAM_STR
TYPED_TEST(L1LossLayerTest, TestParamStrIsRefused) {
  this->param_.mutable_python_param()->set_param_str(" \n");  // says nothing
  this->CheckLoss();
  this->param_.mutable_python_param()->set_param_str("{}");
  EXPECT_DEATH(this->Forward(), "L1Loss layer \"loss\": param_str is read by "
      "the plugin and the Python layer, this Caffe reads l1_loss_param; fix: ");
}
#endif

// ---- loss_param -------------------------------------------------------------

TYPED_TEST(L1LossLayerTest, TestNormalizeOfLossParam) {
  this->param_.mutable_loss_param()->set_normalize(true);
  this->Forward();
  const double mean = this->loss_->cpu_data()[0];
  this->param_.mutable_loss_param()->set_normalize(false);
  this->Forward();
  const double batch_mean = this->loss_->cpu_data()[0];
  this->param_.clear_loss_param();
  EXPECT_NEAR(batch_mean, this->ExpectedLoss(), 1e-4);
  this->SetReduction(L1LossParameter::VALID_MEAN);
  EXPECT_NEAR(mean, this->ExpectedLoss(), 1e-5);
}

TYPED_TEST(L1LossLayerTest, TestIgnoreLabelOfLossParam) {
  this->y_->mutable_cpu_data()[3] = -1;
  this->param_.mutable_loss_param()->set_ignore_label(-1);
  this->Forward();
  this->param_.mutable_l1_loss_param()->set_ignore_label(-1);
  EXPECT_NEAR(this->loss_->cpu_data()[0], this->ExpectedLoss(), 1e-4);
}

#if L1_LOSS_HAS_NORMALIZATION
TYPED_TEST(L1LossLayerTest, TestNormalizationOfLossParam) {
  const LossParameter::NormalizationMode modes[] = {LossParameter::FULL,
      LossParameter::VALID, LossParameter::BATCH_SIZE, LossParameter::NONE};
  const L1LossParameter::Reduction reductions[] = {L1LossParameter::MEAN,
      L1LossParameter::VALID_MEAN, L1LossParameter::BATCHMEAN,
      L1LossParameter::SUM};
  this->FillWeights(this->Shape(3, 2, 5, 2));
  for (int i = 0; i < 4; ++i) {
    this->param_.clear_l1_loss_param();
    this->param_.mutable_loss_param()->set_normalization(modes[i]);
    this->Forward();
    this->SetReduction(reductions[i]);
    EXPECT_NEAR(this->loss_->cpu_data()[0], this->ExpectedLoss(),
        1e-5 * this->ExpectedLoss());
    this->Forward();  // both, and both mean the same
  }
}

TYPED_TEST(L1LossLayerTest, TestContradictingNormalizationIsRefused) {
  this->SetReduction(L1LossParameter::SUM);
  this->param_.mutable_loss_param()->set_normalization(LossParameter::FULL);
  EXPECT_DEATH(this->Forward(), "option \"reduction\" is \"SUM\", but "
      "loss_param's normalization means \"MEAN\"; fix: ");
}
#endif

}  // namespace caffe
