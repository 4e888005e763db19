#if defined(_OPENMP) && !defined(_WIN32)
#include <omp.h>
#include <unistd.h>
#define L1_LOSS_THREADS
#endif

#include <algorithm>
#include <climits>
#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "caffe/layers/l1_loss_layer.hpp"
#include "caffe/util/l1_loss_simd.hpp"
#include "caffe/util/math_functions.hpp"

namespace caffe {

namespace {

using l1_loss_simd::Lane;
using l1_loss_simd::Streaming;
using l1_loss_simd::Vector;

// ---- Options ----------------------------------------------------------------

L1LossParameter OwnParam(const LayerParameter& param, const string& where) {
#ifdef L1_LOSS_PLUGIN
  return L1LossPluginParam(param, where);
#else
#if L1_LOSS_HAS_PARAM_STR
  // A net that says its options as for the plugin would mean something else
  // here if they were not read.
  LOG_IF(FATAL, param.python_param().param_str().find_first_not_of(" \t\r\n")
      != string::npos) << where << "param_str is read by the plugin and the "
      << "Python layer, this Caffe reads l1_loss_param; fix: write the options "
      << "there, as scripts/switch_route.py FILE --to native does";
#endif
  return param.l1_loss_param();
#endif  // L1_LOSS_PLUGIN
}

// What Caffe's older spellings mean.
L1LossParameter FromLossParam(const LossParameter& param) {
  L1LossParameter options;
  if (param.has_ignore_label()) {
    options.set_ignore_label(param.ignore_label());
  }
  if (param.has_normalize()) {
    options.set_reduction(param.normalize() ? L1LossParameter::VALID_MEAN
        : L1LossParameter::BATCHMEAN);
  }
#if L1_LOSS_HAS_NORMALIZATION
  if (param.has_normalization()) {
    const int mode = param.normalization();
    options.set_reduction(mode == LossParameter::FULL ? L1LossParameter::MEAN
        : mode == LossParameter::VALID ? L1LossParameter::VALID_MEAN
        : mode == LossParameter::BATCH_SIZE ? L1LossParameter::BATCHMEAN
        : L1LossParameter::SUM);
  }
#endif
  return options;
}

L1LossParameter ReadOptions(const LayerParameter& param, const string& where) {
  L1LossParameter options = OwnParam(param, where);
  const L1LossParameter older = FromLossParam(param.loss_param());
  LOG_IF(FATAL, options.has_reduction() && older.has_reduction()
      && options.reduction() != older.reduction())
      << where << "option \"reduction\" is \""
      << L1LossParameter::Reduction_Name(options.reduction())
      << "\", but loss_param's normalization means \""
      << L1LossParameter::Reduction_Name(older.reduction())
      << "\"; fix: set one of them";
  LOG_IF(FATAL, options.has_ignore_label() && older.has_ignore_label()
      && options.ignore_label() != older.ignore_label())
      << where << "option \"ignore_label\" is " << options.ignore_label()
      << ", but loss_param's is " << older.ignore_label()
      << "; fix: set one of them";
  options.MergeFrom(older);
  const double label = options.ignore_label();
  LOG_IF(FATAL, !(label - label == 0)) << where << "option \"ignore_label\" is "
      << label << "; allowed: a finite number";
  const double beta = options.beta();
  LOG_IF(FATAL, !(beta >= 0 && beta <= std::numeric_limits<float>::max()))
      << where << "option \"beta\" is " << beta
      << "; allowed: a number from 0 to 3.4028234663852886e+38";
  LOG_IF(FATAL, options.has_axis()
      && options.reduction() != L1LossParameter::NONE)
      << where << "option \"axis\" needs \"reduction\": \"NONE\", not \""
      << L1LossParameter::Reduction_Name(options.reduction()) << "\"";
  return options;
}

// ---- Shapes -----------------------------------------------------------------

string ShapeString(const vector<int>& shape) {
  std::ostringstream stream;
  stream << "(";
  for (int i = 0; i < shape.size(); ++i) {
    stream << (i ? ", " : "") << shape[i];
  }
  stream << (shape.size() == 1 ? ",)" : ")");
  return stream.str();
}

vector<int> WithoutOnes(vector<int> shape) {
  shape.erase(std::remove(shape.begin(), shape.end(), 1), shape.end());
  return shape;
}

// Whether fine becomes coarse by merging neighbouring axes.
bool Merges(const vector<int>& fine, const vector<int>& coarse) {
  // Whether so many axes of fine become those of coarse so far.
  vector<bool> fits(fine.size() + 1, false);
  fits[0] = true;
  for (int c = 0; c < coarse.size(); ++c) {
    vector<bool> next(fine.size() + 1, false);
    for (int begin = 0; begin < fine.size(); ++begin) {
      int64_t length = 1;
      for (int end = begin; fits[begin] && end < fine.size(); ++end) {
        length = std::min<int64_t>(length, int64_t(INT_MAX) + 1) * fine[end];
        next[end + 1] = next[end + 1] || length == coarse[c];
      }
    }
    fits = next;
  }
  return fits[fine.size()];
}

// Whether blobs of these shapes lie in memory in the same order.
bool SameOrder(const vector<int>& a, const vector<int>& b) {
  const vector<int> x = WithoutOnes(a), y = WithoutOnes(b);
  return a[0] == b[0] && (Merges(x, y) || Merges(y, x));
}

// Whether a blob of the shape small can be broadcast to the shape large.
bool Broadcasts(const vector<int>& small, const vector<int>& large) {
  for (int i = 0; i < small.size(); ++i) {
    const int length = i < large.size() ? large[i] : 1;
    if (small[i] != length && small[i] != 1) { return false; }
  }
  return true;
}

// ---- Factors ----------------------------------------------------------------

// A block of so many elements stays in the first level cache.
const int kBlock = 1024;

// From so many factors on, a row of them is a block of its own.
const int kLongRow = 64;

// What elements are multiplied by: each by its own, unless that is NULL, and
// all by the same.
template <typename Dtype>
struct Factor {
  const Dtype* each;
  Dtype all;
};

// A blob that is broadcast to the predictions.
template <typename Dtype>
struct Spread {
  const Dtype* data;  // NULL stands for ones
  L1LossBroadcast map;

  // The factors of the n elements from number begin on, or of fewer that end a
  // row. They stay where they are, unless rows are so short that they are
  // copied.
  Factor<Dtype> at(const int begin, int* n, Dtype* buffer) const {
    Factor<Dtype> factor = {NULL, Dtype(1)};
    if (!data) { return factor; }
    const int row = map.row(begin);
    if (row < std::min(*n, kLongRow)) {
      Copy(begin, *n, buffer);
      factor.each = buffer;
      return factor;
    }
    *n = std::min(*n, row);
    const Dtype* const from = data + map.index(begin);
    if (map.stride[0] == 0) {
      factor.all = *from;
    } else {
      factor.each = from;
    }
    return factor;
  }

  void Copy(const int begin, const int n, Dtype* to) const {
    int row = map.row(begin);
    for (int i = 0; i < n; i += row, row = map.size[0]) {
      row = std::min(row, n - i);
      const Dtype* const from = data + map.index(begin + i);
      for (int j = 0; j < row; ++j) { to[i + j] = from[j * map.stride[0]]; }
    }
  }
};

// a b numerator / divisor. Written down in the buffer, each rounded once, where
// what is the same for all would be lost in Dtype: the divisor may be tiny or
// huge because the weights are.
template <typename Dtype>
Factor<Dtype> Product(const int n, const Factor<Dtype>& a,
    const Factor<Dtype>& b, const double numerator, const double divisor,
    Dtype* buffer) {
  const double scale = numerator * a.all * b.all;
  Factor<Dtype> product = {a.each ? a.each : b.each, Dtype(scale / divisor)};
  const bool normal = product.all - product.all == 0
      && std::fabs(product.all) >= std::numeric_limits<Dtype>::min();
  if (!product.each || (normal && !(a.each && b.each))) { return product; }
  for (int i = 0; i < n; ++i) {
    buffer[i] = scale * (a.each ? a.each[i] : 1) * (b.each ? b.each[i] : 1)
        / divisor;
  }
  product.each = buffer;
  product.all = 1;
  return product;
}

// ---- Elements ---------------------------------------------------------------

// What is known of a block's weights and targets, and of its loss.
enum Flags {
  kEach = 1, kLabel = 2, kNonfinite = 4, kSmooth = 8, kAllFlags = 15
};

enum Quantity {
  kOne, kLoss, kWeight, kNonzeroWeight, kWeightedLoss, kWeightedSign
};

// Neighbouring elements.
template <typename Dtype>
struct Block {
  int n;
  const Dtype* x;
  const Dtype* y;
  Factor<Dtype> weight;
  L1LossIgnore<Dtype> ignore;
  Dtype beta;

  int flags() const {
    return (weight.each ? kEach : 0)
        | (ignore.label == ignore.label ? kLabel : 0)
        | (ignore.nonfinite ? kNonfinite : 0) | (beta != 0 ? kSmooth : 0);
  }

  // What the elements from number i on contribute, as many as V has lanes; 0
  // where the target is ignored.
  template <typename V, Quantity kQuantity, int kFlags>
  L1_LOSS_INLINE typename V::Vec at(const int i) const {
    typedef typename V::Vec Vec;
    const Vec zero = V::Set(0), one = V::Set(1), y = V::Load(this->y + i);
    const Vec difference = V::Load(x + i) - y, label = V::Set(ignore.label);
    Vec size = V::Abs(difference), slope = one, w = V::Set(weight.all);
    if (kFlags & kEach) { w = w * V::Load(weight.each + i); }
    if (kFlags & kSmooth) {  // 1 from beta on, and no squares of large ones
      const Vec near = size < V::Set(beta) ? size : V::Set(beta);
      slope = near / V::Set(beta);
      size = slope * (size - near / V::Set(2));
    }
    Vec v = kQuantity == kOne ? one
        : kQuantity == kLoss ? size
        : kQuantity == kWeight ? w
        : kQuantity == kWeightedLoss ? size * w
        : kQuantity == kNonzeroWeight ? (w != zero ? one : zero)
        : V::WithSign(kFlags & kSmooth ? w * slope : w, difference);
    if (kFlags & kLabel) { v = y != label ? v : zero; }
    if (kFlags & kNonfinite) { v = y - y == zero ? v : zero; }
    return v;
  }

  // So many vectors, added in pairs.
  template <typename V, Quantity kQuantity, int kFlags, int kVectors>
  L1_LOSS_INLINE typename V::Vec PairsAt(const int i) const {
    const int half = (kVectors + 1) / 2;
    return kVectors == 1 ? at<V, kQuantity, kFlags>(i)
        : PairsAt<V, kQuantity, kFlags, half>(i)
        + PairsAt<V, kQuantity, kFlags, half>(i + half * V::kLanes);
  }
};

// Sums a quantity times another. What is never negative meets in pairs in
// Dtype, sixteen at a time, before it meets a double, which costs a relative
// error of four roundings at the most. Products with weights can cancel: they
// meet in double. The loops are compiled for the flags of a block.
template <typename V, Quantity kQuantity, Quantity kTimes, int kFlags,
    typename Dtype>
double Sum(const Block<Dtype>& whole) {
  const int kAll = kQuantity == kLoss ? kAllFlags : kAllFlags & ~kSmooth;
  if (kFlags != (whole.flags() & kAll)) {
    return Sum<V, kQuantity, kTimes, (kFlags + 1) & kAll>(whole);
  }
  const Block<Dtype> block = whole;  // in registers
  typedef Lane<Dtype> L;
  const int sixteen = 16 * V::kLanes;
  l1_loss_simd::Sum<V> sum;
  l1_loss_simd::Sum<L> rest;
  int i = 0;
  for (; kTimes == kOne && block.n - i >= sixteen; i += sixteen) {
    sum.Add(block.template PairsAt<V, kQuantity, kFlags, 16>(i), V::Set(1));
  }
  for (; block.n - i >= V::kLanes; i += V::kLanes) {
    sum.Add(block.template at<V, kQuantity, kFlags>(i),
        block.template at<V, kTimes, kFlags>(i));
  }
  for (; i < block.n; ++i) {
    rest.Add(block.template at<L, kQuantity, kFlags>(i),
        block.template at<L, kTimes, kFlags>(i));
  }
  return sum.Total() + rest.Total();
}

// Writes a quantity to plus, and its negative to minus if that is not NULL. Two
// loops: one that asks for minus each time takes a third longer.
template <typename V, Quantity kQuantity, int kFlags, typename Dtype>
int Write(const Block<Dtype>& whole, int i, Dtype* plus, Dtype* minus) {
  if (kFlags != whole.flags()) {
    return Write<V, kQuantity, (kFlags + 1) & kAllFlags>(whole, i, plus, minus);
  }
  const Block<Dtype> block = whole;  // in registers
  for (; !minus && block.n - i >= V::kLanes; i += V::kLanes) {
    V::Store(block.template at<V, kQuantity, kFlags>(i), plus + i);
  }
  for (; minus && block.n - i >= V::kLanes; i += V::kLanes) {
    const typename V::Vec v = block.template at<V, kQuantity, kFlags>(i);
    V::Store(v, plus + i);
    V::Store(-v, minus + i);
  }
  return i;
}

// What has left the range of Dtype, or is NaN or infinite, is summed again.
template <typename Dtype>
double Loss(const Block<Dtype>& block) {
  const double sum = block.weight.each
      ? Sum<Vector<Dtype>, kLoss, kWeight, 0>(block)
      : Sum<Vector<Dtype>, kLoss, kOne, 0>(block) * block.weight.all;
  return sum - sum == 0 ? sum
      : Sum<Lane<Dtype, double>, kLoss, kWeight, 0>(block);
}

// What a block adds to a divisor that counts; an ignored weight may be NaN.
template <typename Dtype>
double Counted(const Block<Dtype>& block, const bool sum_weights) {
  if (block.weight.each || !sum_weights) {
    return sum_weights ? Sum<Vector<Dtype>, kOne, kWeight, 0>(block)
        : Sum<Vector<Dtype>, kNonzeroWeight, kOne, 0>(block);
  }
  const double count = Sum<Vector<Dtype>, kOne, kOne, 0>(block);
  return count == 0 ? 0 : count * block.weight.all;
}

// Whether a load from b does not wait for a store to a past the caches, as it
// does if only their places in a page are the same.
inline bool InStep(const void* a, const void* b) {
  return !b || (reinterpret_cast<size_t>(a) - reinterpret_cast<size_t>(b))
      % 4096 == 0;
}

// Past the caches, if the whole is so large that it leaves them before it is
// read. That is ten times slower instead of faster if the arrays are not in
// step.
template <Quantity kQuantity, typename Dtype>
void WriteBlock(const Block<Dtype>& block, const int count, Dtype* plus,
    Dtype* minus) {
  const bool stream = count >= (8 << 20) / sizeof(Dtype)
      && reinterpret_cast<size_t>(plus) % 16 == 0 && InStep(plus, minus)
      && InStep(plus, block.x) && InStep(plus, block.y)
      && InStep(plus, block.weight.each);
  const int i = stream
      ? Write<Streaming<Dtype>, kQuantity, 0>(block, 0, plus, minus)
      : Write<Vector<Dtype>, kQuantity, 0>(block, 0, plus, minus);
  Write<Lane<Dtype>, kQuantity, 0>(block, i, plus, minus);
}

// ---- Passes -----------------------------------------------------------------

// The bottoms, and what the options make of them.
template <typename Dtype>
struct Inputs {
  int count;
  const Dtype* x;
  const Dtype* y;
  Spread<Dtype> weight;
  L1LossIgnore<Dtype> ignore;
  Dtype beta;

  Inputs(const vector<Blob<Dtype>*>& bottom, const L1LossBroadcast& weight_map,
      const L1LossIgnore<Dtype>& ignore, const Dtype beta)
      : count(bottom[0]->count()), x(bottom[0]->cpu_data()),
        y(bottom[1]->cpu_data()), ignore(ignore), beta(beta) {
    weight.data = bottom.size() > 2 ? bottom[2]->cpu_data() : NULL;
    weight.map = weight_map;
  }

  // The elements from number begin on that are taken at a time.
  Block<Dtype> block(const int begin, const int end, Dtype* buffer) const {
    int n = std::min(kBlock, end - begin);
    const Factor<Dtype> factor = weight.at(begin, &n, buffer);
    const Block<Dtype> block = {n, x + begin, y + begin, factor, ignore, beta};
    return block;
  }
};

// Elements are walked in chunks of a fixed size, whose sums are added in their
// order: they are the same to the last bit, however many threads walk them.
const int kChunk = 16 * kBlock;

#ifdef L1_LOSS_THREADS

// From so many elements on two threads take two thirds of the time of one or
// less, seen on two cores of an EPYC.
const int kThreadsPay = 1 << 17;

// A child that was forked has none of the threads which OpenMP's library
// believes in, and would wait for them for ever.
const pid_t kLoadedBy = getpid();

#endif

// Calls pass(k, size) for each chunk, or row, of that size.
template <typename Pass>
void ForAll(const int count, const int size, const Pass& pass) {
  const int n = (count - 1) / size + 1;
#ifdef L1_LOSS_THREADS
  if (count >= kThreadsPay && omp_get_max_threads() > 1
      && getpid() == kLoadedBy) {
    const int share = std::max(1, kChunk / size);
#pragma omp parallel for schedule(dynamic, share)
    for (int k = 0; k < n; ++k) { pass(k, size); }
    return;
  }
#endif
  for (int k = 0; k < n; ++k) { pass(k, size); }
}

struct Sums {
  double loss, counted;
};

// The sums of chunks, or the means of rows.
template <typename Dtype>
struct SumPass {
  const Inputs<Dtype>& inputs;
  const bool counts, sum_weights;
  Sums* const sums;
  Dtype* const means;

  void operator()(const int k, const int size) const {
    const int end = std::min<int64_t>(inputs.count, int64_t(k + 1) * size);
    Dtype buffer[kBlock];
    Sums result = {0, 0};
    for (int i = k * size, n; i < end; i += n) {
      const Block<Dtype> block = inputs.block(i, end, buffer);
      n = block.n;
      // In this order y or w comes from the memory now, and the rest below:
      // that is faster than everything at once.
      if (counts) { result.counted += Counted(block, sum_weights); }
      result.loss += Loss(block);
    }
    if (sums) { sums[k] = result; }
    if (means) { means[k] = result.loss / size; }
  }
};

// Writes losses, or gradients: numerator * top_diff / divisor times sign and
// weight.
template <typename Dtype, Quantity kQuantity>
struct WritePass {
  const Inputs<Dtype>& inputs;
  Spread<Dtype> top_diff;
  double numerator, divisor;
  Dtype* plus;
  Dtype* minus;

  void operator()(const int k, const int size) const {
    const int end = std::min<int64_t>(inputs.count, int64_t(k + 1) * size);
    Dtype weights[kBlock], factors[kBlock];
    for (int i = k * size, n; i < end; i += n) {
      Block<Dtype> block = inputs.block(i, end, weights);
      n = block.n;
      const Factor<Dtype> factor = top_diff.at(i, &n, factors);
      block.n = n;
      block.weight =
          Product(n, block.weight, factor, numerator, divisor, factors);
      WriteBlock<kQuantity>(block, inputs.count, plus + i,
          minus ? minus + i : NULL);
    }
    l1_loss_simd::FlushStream();
  }
};

}  // namespace

// ---- The layer --------------------------------------------------------------

template <typename Dtype>
string L1LossLayer<Dtype>::where() const {
  return "L1Loss layer \"" + this->layer_param_.name() + "\": ";
}

template <typename Dtype>
void L1LossLayer<Dtype>::LayerSetUp(const vector<Blob<Dtype>*>& bottom,
    const vector<Blob<Dtype>*>& top) {
  LossLayer<Dtype>::LayerSetUp(bottom, top);  // loss_weight is 1 by default
  for (int i = 0; i < bottom.size(); ++i) {
    LOG_IF(FATAL, top[0] == bottom[i]) << where() << "top[0] is bottom[" << i
        << "]; fix: give the top a name of its own";
  }
  options_ = ReadOptions(this->layer_param_, where());
  ignore_.label = options_.has_ignore_label()
      ? static_cast<Dtype>(options_.ignore_label())
      : std::numeric_limits<Dtype>::quiet_NaN();
  ignore_.nonfinite = options_.ignore_nonfinite_target();
  beta_ = options_.beta();
}

template <typename Dtype>
void L1LossLayer<Dtype>::Reshape(const vector<Blob<Dtype>*>& bottom,
    const vector<Blob<Dtype>*>& top) {
  const vector<int>& x = L1LossShape(*bottom[0]);
  const vector<int>& y = L1LossShape(*bottom[1]);
  LOG_IF(FATAL, x.empty()) << where() << "predictions () have no axes; fix: "
      << "give them at least one, the batch";
  LOG_IF(FATAL, x.size() > kL1LossMaxAxes) << where() << "predictions have "
      << x.size() << " axes; allowed: 1 to " << kL1LossMaxAxes;
  LOG_IF(FATAL, x != y && (y.empty() || !SameOrder(x, y))) << where()
      << "predictions " << ShapeString(x) << " and targets " << ShapeString(y)
      << " do not match; fix: give both the same shape, or one with "
      << "neighbouring axes of the other merged";
  if (bottom.size() > 2) {
    const vector<int>& w = L1LossShape(*bottom[2]);
    LOG_IF(FATAL, !Broadcasts(w, x)) << where() << "weights " << ShapeString(w)
        << " do not match predictions " << ShapeString(x) << "; fix: every "
        << "axis of the weights must equal that of the predictions or be 1, "
        << "from the first axis on";
    weight_map_ = L1LossMakeBroadcast(x, w);
  }
  const vector<int> top_shape = TopShape(*bottom[0]);
  if (options_.reduction() == L1LossParameter::NONE) {
    top_map_ = L1LossMakeBroadcast(x, top_shape);
  }
  ReshapeTop(top_shape, top[0]);
}

template <typename Dtype>
vector<int> L1LossLayer<Dtype>::TopShape(const Blob<Dtype>& x) const {
  if (options_.reduction() != L1LossParameter::NONE) { return vector<int>(); }
  const vector<int>& shape = L1LossShape(x);
  if (!options_.has_axis()) { return shape; }
  const int axes = shape.size(), axis = options_.axis();
  LOG_IF(FATAL, axis < -axes || axis >= axes) << where()
      << "option \"axis\" is " << axis << "; allowed: " << -axes << " to "
      << axes - 1 << " for predictions of shape " << ShapeString(shape);
  return vector<int>(shape.begin(),
      shape.begin() + (axis < 0 ? axis + axes : axis));
}

// Caffe writes the loss_weight into the diff of a top once, after the first
// Reshape. In a scalar it stays; elsewhere it must be written into what has
// come since, or the net stops learning without a word.
template <typename Dtype>
void L1LossLayer<Dtype>::ReshapeTop(const vector<int>& shape,
    Blob<Dtype>* top) {
  // An empty top needs memory too: Caffe writes into its diff.
  L1LossReshape(vector<int>(1, 1), top);
  L1LossReshape(shape, top);
  const Dtype loss_weight = this->loss(0);
  if (loss_weight != 0 && top->count() > weighted_count_) {
    caffe_set(top->count(), loss_weight, top->mutable_cpu_diff());
    weighted_count_ = top->count();
  }
}

template <typename Dtype>
bool L1LossLayer<Dtype>::counts() const {
  return options_.reduction() == L1LossParameter::VALID_MEAN
      || options_.reduction() == L1LossParameter::WEIGHTED_MEAN;
}

template <typename Dtype>
double L1LossLayer<Dtype>::Divisor(const Blob<Dtype>& x,
    const double counted) const {
  switch (options_.reduction()) {
    case L1LossParameter::BATCHMEAN: return L1LossShape(x)[0];
    case L1LossParameter::MEAN: return x.count();
    case L1LossParameter::VALID_MEAN:
    case L1LossParameter::WEIGHTED_MEAN: return counted;
    default: return 1;
  }
}

template <typename Dtype>
void L1LossLayer<Dtype>::Forward_cpu(const vector<Blob<Dtype>*>& bottom,
    const vector<Blob<Dtype>*>& top) {
  if (bottom[0]->count() == 0) {  // and may have no memory
    return caffe_set(top[0]->count(), Dtype(0), top[0]->mutable_cpu_data());
  }
  if (options_.reduction() == L1LossParameter::NONE) {
    ForwardUnreduced_cpu(bottom, top[0]);
  } else {
    ForwardReduced_cpu(bottom, top[0]);
  }
}

template <typename Dtype>
void L1LossLayer<Dtype>::ForwardReduced_cpu(const vector<Blob<Dtype>*>& bottom,
    Blob<Dtype>* top) {
  const Inputs<Dtype> inputs(bottom, weight_map_, ignore_, beta_);
  vector<Sums> sums(inputs.count / kChunk + 1);
  const SumPass<Dtype> pass = {inputs, counts(),
      options_.reduction() == L1LossParameter::WEIGHTED_MEAN, &sums[0], NULL};
  ForAll(inputs.count, kChunk, pass);
  Sums total = {0, 0};
  for (int k = 0; k < sums.size(); ++k) {
    total.loss += sums[k].loss;
    total.counted += sums[k].counted;
  }
  divisor_ = Divisor(*bottom[0], total.counted);
  top->mutable_cpu_data()[0] = divisor_ == 0 ? 0 : total.loss / divisor_;
}

template <typename Dtype>
void L1LossLayer<Dtype>::ForwardUnreduced_cpu(
    const vector<Blob<Dtype>*>& bottom, Blob<Dtype>* top) {
  const Inputs<Dtype> inputs(bottom, weight_map_, ignore_, beta_);
  const int row = inputs.count / top->count();
  Dtype* out = top->mutable_cpu_data();
  divisor_ = row;
  if (row == 1) {
    const Spread<Dtype> ones = {NULL, top_map_};
    const WritePass<Dtype, kWeightedLoss> pass = {inputs, ones, 1, 1, out,
        NULL};
    ForAll(inputs.count, kChunk, pass);
  } else {
    const SumPass<Dtype> pass = {inputs, false, false, NULL, out};
    ForAll(inputs.count, row, pass);
  }
}

template <typename Dtype>
void L1LossLayer<Dtype>::CheckPropagateDown(
    const vector<bool>& propagate_down) const {
  LOG_IF(FATAL, propagate_down.size() > 2 && propagate_down[2]) << where()
      << "weights get no gradient; fix: set propagate_down to false for "
      << "bottom[2]";
}

template <typename Dtype>
void L1LossLayer<Dtype>::Backward_cpu(const vector<Blob<Dtype>*>& top,
    const vector<bool>& propagate_down, const vector<Blob<Dtype>*>& bottom) {
  CheckPropagateDown(propagate_down);
  const int count = bottom[0]->count();
  if (count == 0 || !(propagate_down[0] || propagate_down[1])) { return; }
  Dtype* diff[2];
  for (int i = 0; i < 2; ++i) {
    diff[i] = propagate_down[i] ? bottom[i]->mutable_cpu_diff() : NULL;
    if (diff[i] && divisor_ == 0) { caffe_set(count, Dtype(0), diff[i]); }
  }
  if (divisor_ == 0) { return; }
  const bool reduced = options_.reduction() != L1LossParameter::NONE;
  const Dtype* top_diff = top[0]->cpu_diff();
  const Inputs<Dtype> inputs(bottom, weight_map_, ignore_, beta_);
  const Spread<Dtype> factors = {reduced ? NULL : top_diff, top_map_};
  const double numerator = (reduced ? top_diff[0] : 1.) * (diff[0] ? 1 : -1);
  // The gradient of the targets alone is written with the sign changed.
  const WritePass<Dtype, kWeightedSign> pass = {inputs, factors, numerator,
      divisor_, diff[0] ? diff[0] : diff[1], diff[0] ? diff[1] : NULL};
  ForAll(count, kChunk, pass);
}

#ifdef CPU_ONLY
STUB_GPU(L1LossLayer);
#endif

INSTANTIATE_CLASS(L1LossLayer);

#ifndef L1_LOSS_PLUGIN  // which asks the registry first
REGISTER_LAYER_CLASS(L1Loss);
#endif

}  // namespace caffe
