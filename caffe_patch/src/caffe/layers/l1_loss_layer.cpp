#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "caffe/layers/l1_loss_layer.hpp"
#include "caffe/util/math_functions.hpp"

#ifdef L1_LOSS_PLUGIN
#include "google/protobuf/util/json_util.h"
#endif

#ifdef __SSE2__
#include <emmintrin.h>
#endif

// GCC vectorises at -O3 only, and Caffe's Makefile compiles with -O2.
#if defined(__GNUC__) && !defined(__clang__)
#define L1_LOSS_VECTORISE __attribute__((optimize("O3")))
#else
#define L1_LOSS_VECTORISE
#endif

#ifdef _MSC_VER
#define L1_LOSS_RESTRICT __restrict
#else
#define L1_LOSS_RESTRICT __restrict__
#endif

namespace caffe {

namespace {

// ---- Options ----------------------------------------------------------------

#ifdef L1_LOSS_PLUGIN

// Caffe's own caffe.proto knows no l1_loss_param, but python_param parses in a
// layer of any type.
L1LossParameter OwnParam(const LayerParameter& param, const string& where) {
  L1LossParameter result;
  const string json = param.python_param().param_str();
  if (json.empty()) { return result; }
  const google::protobuf::util::Status status =
      google::protobuf::util::JsonStringToMessage(json, &result);
  if (!status.ok()) {
    LOG(FATAL) << where << "param_str " << json << " is wrong ("
        << status.ToString() << "); allowed: reduction (BATCHMEAN, MEAN, SUM, "
        << "VALID_MEAN, WEIGHTED_MEAN, NONE), axis (an integer), ignore_label "
        << "(a number), ignore_nonfinite_target (true or false)";
  }
  return result;
}

#else

L1LossParameter OwnParam(const LayerParameter& param, const string& where) {
  return param.l1_loss_param();
}

#endif  // L1_LOSS_PLUGIN

typedef L1LossParameter::Reduction Reduction;

// What Caffe's older spellings in loss_param mean; false where there are none.
bool ReductionOfLossParam(const LossParameter& param, Reduction* reduction) {
#if L1_LOSS_HAS_NORMALIZATION
  if (param.has_normalization()) {
    switch (param.normalization()) {
      case LossParameter::FULL: *reduction = L1LossParameter::MEAN; break;
      case LossParameter::VALID:
        *reduction = L1LossParameter::VALID_MEAN; break;
      case LossParameter::BATCH_SIZE:
        *reduction = L1LossParameter::BATCHMEAN; break;
      case LossParameter::NONE: *reduction = L1LossParameter::SUM; break;
    }
    return true;
  }
#endif
  *reduction = param.normalize() ? L1LossParameter::VALID_MEAN
      : L1LossParameter::BATCHMEAN;
  return param.has_normalize();
}

L1LossParameter ReadOptions(const LayerParameter& param, const string& where) {
  L1LossParameter options = OwnParam(param, where);
  Reduction reduction = options.reduction();
  if (ReductionOfLossParam(param.loss_param(), &reduction)) {
    if (options.has_reduction() && options.reduction() != reduction) {
      LOG(FATAL) << where << "option \"reduction\" is \""
          << L1LossParameter::Reduction_Name(options.reduction())
          << "\", but loss_param's normalization means \""
          << L1LossParameter::Reduction_Name(reduction)
          << "\"; fix: set one of them";
    }
    options.set_reduction(reduction);
  }
  if (param.loss_param().has_ignore_label()) {
    const double label = param.loss_param().ignore_label();
    if (options.has_ignore_label() && options.ignore_label() != label) {
      LOG(FATAL) << where << "option \"ignore_label\" is "
          << options.ignore_label() << ", but loss_param's is " << label
          << "; fix: set one of them";
    }
    options.set_ignore_label(label);
  }
  if (options.has_axis() && options.reduction() != L1LossParameter::NONE) {
    LOG(FATAL) << where << "option \"axis\" needs \"reduction\": \"NONE\", not "
        << "\"" << L1LossParameter::Reduction_Name(options.reduction()) << "\"";
  }
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

vector<int> WithoutOnes(const vector<int>& shape) {
  vector<int> result;
  for (int i = 0; i < shape.size(); ++i) {
    if (shape[i] != 1) { result.push_back(shape[i]); }
  }
  return result;
}

// Whether fine[f:] becomes coarse[c:] by merging neighbouring axes.
bool Merges(const vector<int>& fine, int f, const vector<int>& coarse, int c) {
  if (c == coarse.size()) { return f == fine.size(); }
  int64_t product = 1;
  for (; f < fine.size(); ++f) {
    product *= fine[f];
    if (product == coarse[c] && Merges(fine, f + 1, coarse, c + 1)) {
      return true;
    }
    if (product > coarse[c]) { return false; }
  }
  return false;
}

// Whether blobs of these shapes lie in memory in the same order.
bool SameOrder(const vector<int>& a, const vector<int>& b) {
  const vector<int> x = WithoutOnes(a), y = WithoutOnes(b);
  return a[0] == b[0] && (Merges(x, 0, y, 0) || Merges(y, 0, x, 0));
}

// Whether a blob of the shape small can be broadcast to the shape large.
bool Broadcasts(const vector<int>& small, const vector<int>& large) {
  for (int i = 0; i < small.size(); ++i) {
    const int length = i < large.size() ? large[i] : 1;
    if (small[i] != length && small[i] != 1) { return false; }
  }
  return true;
}

L1LossBroadcast MakeBroadcast(const vector<int>& small,
    const vector<int>& large) {
  L1LossBroadcast map;
  map.axes = 0;
  vector<bool> same;
  for (int i = 0; i < large.size(); ++i) {
    if (large[i] == 1) { continue; }
    const bool own = i < small.size() && small[i] == large[i];
    if (map.axes > 0 && same.back() == own) {
      map.size[map.axes - 1] *= large[i];
    } else {
      map.size[map.axes++] = large[i];
      same.push_back(own);
    }
  }
  if (map.axes == 0) {  // a single element
    map.size[map.axes++] = 1;
    same.push_back(true);
  }
  int stride = 1;
  for (int axis = map.axes - 1; axis >= 0; --axis) {
    map.stride[axis] = same[axis] ? stride : 0;
    if (same[axis]) { stride *= map.size[axis]; }
  }
  return map;
}

// ---- Blocks of elements -----------------------------------------------------
//
// The layer goes through its inputs once, in blocks that stay in the first
// level cache while the functions below take their turns at them.

const int kBlock = 512;

// From this size on, what is written will not be read before it has left the
// caches, so that reading it into them first would be wasted.
const size_t kStreamBytes = 8 << 20;

template <typename Dtype>
L1_LOSS_VECTORISE void Fill(const int n, const Dtype value, Dtype* out) {
  for (int i = 0; i < n; ++i) { out[i] = value; }
}

// g = a sign(x - y); x - y itself stands for the sign of 0 and of NaN. Asked
// in this order, it takes three quarters of the time.
template <typename Dtype>
L1_LOSS_VECTORISE void Sign(const int n, const Dtype a,
    const Dtype* L1_LOSS_RESTRICT x, const Dtype* L1_LOSS_RESTRICT y,
    Dtype* L1_LOSS_RESTRICT g) {
  for (int i = 0; i < n; ++i) {
    const Dtype difference = x[i] - y[i];
    const Dtype signed_a = difference < 0 ? -a : a;
    g[i] = std::fabs(difference) > 0 ? signed_a : difference;
  }
}

template <typename Dtype>
L1_LOSS_VECTORISE void Multiply(const int n, const Dtype* L1_LOSS_RESTRICT w,
    Dtype* L1_LOSS_RESTRICT e) {
  for (int i = 0; i < n; ++i) { e[i] *= w[i]; }
}

// e = 0 where the target is ignored.
template <typename Dtype>
L1_LOSS_VECTORISE void Select(const int n, const L1LossIgnore<Dtype>& ignore,
    const Dtype* L1_LOSS_RESTRICT y, Dtype* L1_LOSS_RESTRICT e) {
  const Dtype label = ignore.label_value;
  if (ignore.label) {
    for (int i = 0; i < n; ++i) { e[i] = y[i] == label ? Dtype(0) : e[i]; }
  }
  if (ignore.nonfinite) {
    for (int i = 0; i < n; ++i) {
      e[i] = y[i] - y[i] == Dtype(0) ? e[i] : Dtype(0);
    }
  }
}

template <typename Dtype>
L1_LOSS_VECTORISE int CountIgnored(const int n,
    const L1LossIgnore<Dtype>& ignore, const Dtype* y) {
  // NaN is equal to nothing.
  const Dtype label = ignore.label ? ignore.label_value
      : std::numeric_limits<Dtype>::quiet_NaN();
  int count = 0;
  if (ignore.nonfinite) {
    for (int i = 0; i < n; ++i) {
      count += (y[i] == label) | !(y[i] - y[i] == Dtype(0));
    }
  } else {
    for (int i = 0; i < n; ++i) { count += y[i] == label; }
  }
  return count;
}

// What each element i of a block adds to the loss, or to a divisor that counts.

template <typename Dtype>
struct Loss {
  const Dtype* x;
  const Dtype* y;
  inline Dtype operator()(const int i) const { return std::fabs(x[i] - y[i]); }
};

template <typename Dtype>
struct ScaledLoss {
  const Dtype* x;
  const Dtype* y;
  Dtype w;
  inline Dtype operator()(const int i) const {
    return w * std::fabs(x[i] - y[i]);
  }
};

template <typename Dtype>
struct Value {
  const Dtype* value;
  inline Dtype operator()(const int i) const { return value[i]; }
};

template <typename Dtype>
struct Product {
  const Dtype* value;
  const Dtype* factor;
  inline Dtype operator()(const int i) const { return value[i] * factor[i]; }
};

template <typename Dtype>
struct NonzeroValue {
  const Dtype* value;
  inline Dtype operator()(const int i) const { return value[i] != 0 ? 1 : 0; }
};

// The sum of term(0), ..., term(n - 1) in double. The lanes let it be
// vectorised, and are as many as a cache line holds; in a lane eight terms are
// added in pairs before they meet the double, which costs a relative error of
// three roundings at the most.
template <typename Dtype, typename Term>
L1_LOSS_VECTORISE double Sum(const int n, const Term term) {
  const int kLanes = 64 / sizeof(Dtype), kRun = 8 * kLanes;
  double lane[kLanes] = {0}, sum = 0;
  Dtype run[kLanes];
  int i = 0;
  for (; n - i >= kRun; i += kRun) {
    for (int k = i; k < i + kLanes; ++k) {
      run[k - i] = ((term(k) + term(k + kLanes))
              + (term(k + 2 * kLanes) + term(k + 3 * kLanes)))
          + ((term(k + 4 * kLanes) + term(k + 5 * kLanes))
              + (term(k + 6 * kLanes) + term(k + 7 * kLanes)));
    }
    for (int k = 0; k < kLanes; ++k) { lane[k] += run[k]; }
  }
  for (; i < n; ++i) { sum += term(i); }
  for (int k = 0; k < kLanes; ++k) { sum += lane[k]; }
  if (sum - sum == 0) { return sum; }
  // NaN, infinity, or eight terms that together left the range of Dtype.
  sum = 0;
  for (i = 0; i < n; ++i) { sum += term(i); }
  return sum;
}

// What is done with the terms of a block: they are written down, or added up.

template <typename Dtype>
struct Write {
  Dtype* e;
  template <typename Term>
  L1_LOSS_VECTORISE void operator()(const int n, const Term& terms) {
    const Term term = terms;
    Dtype* L1_LOSS_RESTRICT out = e;
    for (int i = 0; i < n; ++i) { out[i] = term(i); }
  }
};

template <typename Dtype>
struct Add {
  double sum;
  template <typename Term>
  void operator()(const int n, const Term& term) {
    sum += Sum<Dtype>(n, term);
  }
};

template <typename Dtype>
L1_LOSS_VECTORISE void Negate(const int n, const Dtype* L1_LOSS_RESTRICT g,
    Dtype* L1_LOSS_RESTRICT minus_g) {
  for (int i = 0; i < n; ++i) { minus_g[i] = -g[i]; }
}

#ifdef __SSE2__
inline __m128i SignBits(const float* g) {
  return _mm_castps_si128(_mm_set1_ps(-0.f));
}
inline __m128i SignBits(const double* g) {
  return _mm_castpd_si128(_mm_set1_pd(-0.));
}
#endif

// Writes a block to plus, if it is not there already, and its negative to
// minus, where these are not NULL; for a large blob past the caches.
template <typename Dtype>
void Store(const int n, const Dtype* g, const bool stream, Dtype* plus,
    Dtype* minus) {
#ifdef __SSE2__
  const size_t places = reinterpret_cast<size_t>(plus)
      | reinterpret_cast<size_t>(minus) | n * sizeof(Dtype);
  if (stream && places % 16 == 0) {
    const __m128i sign = SignBits(g);
    for (int i = 0; i < n; i += 16 / sizeof(Dtype)) {
      const __m128i block =
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(g + i));
      if (plus) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(plus + i), block);
      }
      if (minus) {
        _mm_stream_si128(reinterpret_cast<__m128i*>(minus + i),
            _mm_xor_si128(block, sign));
      }
    }
    return;
  }
#endif
  if (plus && plus != g) { std::copy(g, g + n, plus); }
  if (minus) { Negate(n, g, minus); }
}

// Lets other threads see what went past the caches.
inline void FinishStores() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// Writes the factors of the elements begin, ..., begin + n - 1 one by one.
template <typename Dtype>
void Expand(const L1LossBroadcast& map, const Dtype* factor, int begin, int n,
    Dtype* out) {
  const int last = map.axes - 1;
  int at[kL1LossMaxAxes];
  for (int axis = last, rest = begin; axis >= 0; --axis) {
    at[axis] = rest % map.size[axis];
    rest /= map.size[axis];
  }
  factor += map.index(begin);
  while (n > 0) {
    const int run = std::min(n, map.size[last] - at[last]);
    if (map.stride[last] == 0) {
      Fill(run, *factor, out);
    } else {
      std::copy(factor, factor + run, out);
    }
    out += run;
    n -= run;
    at[last] += run;
    factor += run * map.stride[last];
    for (int axis = last; axis > 0 && at[axis] == map.size[axis]; --axis) {
      at[axis] = 0;
      ++at[axis - 1];
      factor += map.stride[axis - 1] - map.size[axis] * map.stride[axis];
    }
  }
}

// The same, or where they lie one by one already.
template <typename Dtype>
const Dtype* Expanded(const L1LossBroadcast& map, const Dtype* factor,
    const int begin, const int n, Dtype* buffer) {
  if (map.identity()) { return factor + begin; }
  Expand(map, factor, begin, n, buffer);
  return buffer;
}

// ---- What the options make of the bottoms -----------------------------------

template <typename Dtype>
struct Inputs {
  const Dtype* x;
  const Dtype* y;
  const Dtype* w;  // NULL without weights
  L1LossBroadcast weight_map;
  L1LossIgnore<Dtype> ignore;

  // Whether the functions below take a block at a time, or any number.
  bool blocked() const { return w || ignore.any(); }
  // The weights of the elements begin, ..., begin + n - 1, one by one.
  const Dtype* weights(const int begin, const int n, Dtype* buffer) const {
    return Expanded(weight_map, w, begin, n, buffer);
  }
  // Does the action with e of the same elements.
  template <typename Action>
  void losses(const int begin, const int n, Action* action) const {
    if (!w) {
      const Loss<Dtype> e = {x + begin, y + begin};
      return selected(begin, n, e, action);
    }
    if (weight_map.uniform(begin, n)) {
      const ScaledLoss<Dtype> e = {x + begin, y + begin,
          w[weight_map.index(begin)]};
      return selected(begin, n, e, action);
    }
    // Memory is faster at two arrays, and then a third, than at three at once.
    Dtype unweighted[kBlock], buffer[kBlock];
    Write<Dtype> write = {unweighted};
    const Loss<Dtype> loss = {x + begin, y + begin};
    write(n, loss);
    const Product<Dtype> e = {unweighted, weights(begin, n, buffer)};
    selected(begin, n, e, action);
  }
  // What the same elements add to a divisor that counts.
  double counted(const int begin, const int n, const bool sum_weights) const {
    if (!w) { return n - CountIgnored(n, ignore, y + begin); }
    Add<Dtype> add = {0};
    Dtype buffer[kBlock];
    if (sum_weights) {
      const Value<Dtype> weight = {weights(begin, n, buffer)};
      selected(begin, n, weight, &add);
    } else {
      const NonzeroValue<Dtype> weight = {weights(begin, n, buffer)};
      selected(begin, n, weight, &add);
    }
    return add.sum;
  }
  // Does the action with the terms, which are 0 where the target is ignored.
  // They are written down for it, since GCC vectorises a selection only there.
  template <typename Term, typename Action>
  void selected(const int begin, const int n, const Term& term,
      Action* action) const {
    if (!ignore.any()) { return (*action)(n, term); }
    Dtype buffer[kBlock];
    Write<Dtype> write = {buffer};
    write(n, term);
    Select(n, ignore, y + begin, buffer);
    const Value<Dtype> written = {buffer};
    (*action)(n, written);
  }
  // Writes scale * sign(x - y) * w.
  void gradients(const int begin, const int n, const Dtype scale,
      Dtype* g) const {
    Sign(n, scale, x + begin, y + begin, g);
    if (!w) { return; }
    Dtype buffer[kBlock];
    Multiply(n, weights(begin, n, buffer), g);
  }
};

template <typename Dtype>
Inputs<Dtype> MakeInputs(const vector<Blob<Dtype>*>& bottom,
    const L1LossBroadcast& weight_map, const L1LossIgnore<Dtype>& ignore) {
  Inputs<Dtype> inputs;
  inputs.x = bottom[0]->cpu_data();
  inputs.y = bottom[1]->cpu_data();
  inputs.w = bottom.size() > 2 ? bottom[2]->cpu_data() : NULL;
  inputs.weight_map = weight_map;
  inputs.ignore = ignore;
  return inputs;
}

template <typename Dtype>
void WriteLosses(const Inputs<Dtype>& inputs, const int count, Dtype* top) {
  const bool stream = count * sizeof(Dtype) >= kStreamBytes;
  Dtype buffer[kBlock], *none = NULL;
  for (int begin = 0, n; begin < count; begin += n) {
    n = std::min(kBlock, count - begin);
    Write<Dtype> write = {stream ? buffer : top + begin};
    inputs.losses(begin, n, &write);
    Store(n, write.e, stream, top + begin, none);
  }
  FinishStores();
}

// The means of e over rows of so many elements.
template <typename Dtype>
void WriteRowMeans(const Inputs<Dtype>& inputs, const int count, const int row,
    Dtype* top) {
  Dtype e[kBlock];
  Add<Dtype> add = {0};
  int left = row;  // of the row that is being summed
  for (int begin = 0, n; begin < count; begin += n) {
    n = std::min(kBlock, count - begin);
    Write<Dtype> write = {e};
    inputs.losses(begin, n, &write);
    for (int at = 0, part; at < n; at += part) {
      part = std::min(left, n - at);
      const Value<Dtype> values = {e + at};
      add(part, values);
      left -= part;
      if (left == 0) {
        *top++ = add.sum / row;
        add.sum = 0;
        left = row;
      }
    }
  }
}

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
  options_ = ReadOptions(this->layer_param_, where());
  ignore_.label = options_.has_ignore_label();
  ignore_.label_value = static_cast<Dtype>(options_.ignore_label());
  ignore_.nonfinite = options_.ignore_nonfinite_target();
}

template <typename Dtype>
void L1LossLayer<Dtype>::Reshape(const vector<Blob<Dtype>*>& bottom,
    const vector<Blob<Dtype>*>& top) {
  const vector<int>& x = L1LossShape(*bottom[0]);
  const vector<int>& y = L1LossShape(*bottom[1]);
  if (x.empty()) {
    LOG(FATAL) << where() << "predictions () have no axes; fix: give them at "
        << "least one, the batch";
  }
  if (x.size() > kL1LossMaxAxes) {
    LOG(FATAL) << where() << "predictions have " << x.size() << " axes; "
        << "allowed: 1 to " << kL1LossMaxAxes;
  }
  if (x != y && (y.empty() || !SameOrder(x, y))) {
    LOG(FATAL) << where() << "predictions " << ShapeString(x)
        << " and targets " << ShapeString(y) << " do not match; fix: give both "
        << "the same shape, or one with neighbouring axes of the other merged";
  }
  if (bottom.size() > 2) {
    const vector<int>& w = L1LossShape(*bottom[2]);
    if (!Broadcasts(w, x)) {
      LOG(FATAL) << where() << "weights " << ShapeString(w)
          << " do not match predictions " << ShapeString(x) << "; fix: every "
          << "axis of the weights must equal that of the predictions or be 1, "
          << "from the first axis on";
    }
    weight_map_ = MakeBroadcast(w, x);
  }
  const vector<int> top_shape = TopShape(*bottom[0]);
  if (options_.reduction() == L1LossParameter::NONE) {
    top_map_ = MakeBroadcast(top_shape, x);
  }
  ReshapeTop(top_shape, top[0]);
}

template <typename Dtype>
vector<int> L1LossLayer<Dtype>::TopShape(const Blob<Dtype>& x) const {
  if (options_.reduction() != L1LossParameter::NONE) { return vector<int>(); }
  const vector<int>& shape = L1LossShape(x);
  if (!options_.has_axis()) { return shape; }
  const int axes = shape.size();
  const int axis = options_.axis();
  if (axis < -axes || axis >= axes) {
    LOG(FATAL) << where() << "option \"axis\" is " << axis << "; allowed: "
        << -axes << " to " << axes - 1 << " for predictions of shape "
        << ShapeString(shape);
  }
  return vector<int>(shape.begin(),
      shape.begin() + (axis < 0 ? axis + axes : axis));
}

// A top that outgrows its memory gets a new diff, which is 0. In a scalar that
// never happens; elsewhere the loss_weight that Caffe wrote there once must be
// written again, or the net stops learning without a word.
template <typename Dtype>
void L1LossLayer<Dtype>::ReshapeTop(const vector<int>& shape,
    Blob<Dtype>* top) const {
  const SyncedMemory* before = top->count() ? top->diff().get() : NULL;
  L1LossReshape(shape, top);
  const Dtype loss_weight = this->loss(0);
  if (loss_weight != 0 && top->count() && top->diff().get() != before) {
    caffe_set(top->count(), loss_weight, top->mutable_cpu_diff());
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
  if (options_.reduction() == L1LossParameter::NONE) {
    ForwardUnreduced_cpu(bottom, top[0]);
  } else {
    ForwardReduced_cpu(bottom, top[0]);
  }
}

template <typename Dtype>
void L1LossLayer<Dtype>::ForwardReduced_cpu(const vector<Blob<Dtype>*>& bottom,
    Blob<Dtype>* top) {
  const int count = bottom[0]->count();
  Add<Dtype> loss = {0};
  double counted = 0;
  if (count > 0) {
    const Inputs<Dtype> inputs = MakeInputs(bottom, weight_map_, ignore_);
    const int block = counts() || inputs.blocked() ? kBlock : count;
    for (int begin = 0, n; begin < count; begin += n) {
      n = std::min(block, count - begin);
      inputs.losses(begin, n, &loss);
      if (counts()) {
        counted += inputs.counted(begin, n,
            options_.reduction() == L1LossParameter::WEIGHTED_MEAN);
      }
    }
  }
  divisor_ = Divisor(*bottom[0], counted);
  top->mutable_cpu_data()[0] = divisor_ == 0 ? 0 : loss.sum / divisor_;
}

template <typename Dtype>
void L1LossLayer<Dtype>::ForwardUnreduced_cpu(
    const vector<Blob<Dtype>*>& bottom, Blob<Dtype>* top) {
  if (top->count() == 0) { return; }
  const int count = bottom[0]->count();
  const int row = count / top->count();
  divisor_ = row;
  Dtype* out = top->mutable_cpu_data();
  if (row == 0) { return caffe_set(top->count(), Dtype(0), out); }
  const Inputs<Dtype> inputs = MakeInputs(bottom, weight_map_, ignore_);
  if (row == 1) {
    WriteLosses(inputs, count, out);
  } else {
    WriteRowMeans(inputs, count, row, out);
  }
}

template <typename Dtype>
void L1LossLayer<Dtype>::CheckPropagateDown(
    const vector<bool>& propagate_down) const {
  if (propagate_down.size() > 2 && propagate_down[2]) {
    LOG(FATAL) << where() << "weights get no gradient; fix: set propagate_down "
        << "to false for bottom[2]";
  }
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
  const Dtype scale = (reduced ? top_diff[0] : Dtype(1)) / divisor_;
  const Inputs<Dtype> inputs = MakeInputs(bottom, weight_map_, ignore_);
  const bool stream = count * sizeof(Dtype) >= kStreamBytes;
  Dtype gradients[kBlock], buffer[kBlock], *none = NULL;
  for (int begin = 0, n; begin < count; begin += n) {
    n = std::min(kBlock, count - begin);
    Dtype* g = diff[0] && !stream ? diff[0] + begin : gradients;
    inputs.gradients(begin, n, scale, g);
    if (!reduced) {
      Multiply(n, Expanded(top_map_, top_diff, begin, n, buffer), g);
    }
    if (ignore_.any()) { Select(n, ignore_, inputs.y + begin, g); }
    Store(n, g, stream, diff[0] ? diff[0] + begin : none,
        diff[1] ? diff[1] + begin : none);
  }
  FinishStores();
}

#ifdef CPU_ONLY
STUB_GPU(L1LossLayer);
#endif

INSTANTIATE_CLASS(L1LossLayer);

#ifdef L1_LOSS_PLUGIN

template <typename Dtype>
shared_ptr<Layer<Dtype> > CreateL1LossLayer(const LayerParameter& param) {
  return shared_ptr<Layer<Dtype> >(new L1LossLayer<Dtype>(param));
}

bool L1LossPluginFits();  // says so where it does not

// The registry aborts at a type that it knows already; a plugin steps aside.
struct PluginRegistration {
  PluginRegistration() {
    if (LayerRegistry<float>::Registry().count("L1Loss")) {
      LOG(WARNING) << "this Caffe has an L1Loss layer already; the plugin "
          << "leaves it in place";
    } else if (L1LossPluginFits()) {
      LayerRegistry<float>::AddCreator("L1Loss", CreateL1LossLayer<float>);
      LayerRegistry<double>::AddCreator("L1Loss", CreateL1LossLayer<double>);
    }
  }
};

static const PluginRegistration plugin_registration;

#else

REGISTER_LAYER_CLASS(L1Loss);

#endif  // L1_LOSS_PLUGIN

}  // namespace caffe
