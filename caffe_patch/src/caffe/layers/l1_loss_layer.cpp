#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "caffe/layers/l1_loss_layer.hpp"
#include "caffe/util/math_functions.hpp"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

// A loop is one only if all that it calls is part of it.
#ifdef __GNUC__
#define L1_LOSS_INLINE inline __attribute__((always_inline))
#else
#define L1_LOSS_INLINE inline
#endif

namespace caffe {

namespace {

// ---- Options ----------------------------------------------------------------

#ifdef L1_LOSS_PLUGIN

// Caffe's own caffe.proto knows no l1_loss_param, but python_param parses in a
// layer of any type.
L1LossParameter OwnParam(const LayerParameter& param, const string& where) {
  L1LossParameter result;
  const string error =
      L1LossReadParamStr(param.python_param().param_str(), &result);
  if (!error.empty()) { LOG(FATAL) << where << error; }
  return result;
}

#else

// A net that says its options as for the plugin would mean something else here
// if they were not read.
L1LossParameter OwnParam(const LayerParameter& param, const string& where) {
#if L1_LOSS_HAS_PARAM_STR
  if (param.python_param().param_str().find_first_not_of(" \t\r\n")
      != string::npos) {
    LOG(FATAL) << where << "param_str is read by the plugin and the Python "
        << "layer, this Caffe reads l1_loss_param; fix: write the options "
        << "there, as scripts/switch_route.py FILE --to native does";
  }
#endif
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
  const double label = options.ignore_label();
  if (!(label - label == 0)) {
    LOG(FATAL) << where << "option \"ignore_label\" is " << label
        << "; allowed: a finite number";
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

// Whether fine becomes coarse by merging neighbouring axes.
bool Merges(const vector<int>& fine, const vector<int>& coarse) {
  // Whether the first axes of fine, so many, become those of coarse so far.
  vector<bool> fits(fine.size() + 1, false);
  fits[0] = true;
  for (int c = 0; c < coarse.size(); ++c) {
    vector<bool> next(fine.size() + 1, false);
    for (int begin = 0; begin < fine.size(); ++begin) {
      int64_t length = fits[begin] ? 1 : -1;
      for (int end = begin; end < fine.size() && length >= 0; ++end) {
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

// ---- Vectors ----------------------------------------------------------------
//
// Caffe's Makefile compiles with -O2, where GCC before 12 vectorises nothing of
// itself. What is written in vector types it always does; clang knows them too.
// A single lane takes what is left at an end, and everything under another
// compiler or with L1_LOSS_NO_VECTORS.

template <typename Dtype>
struct Lane {
  typedef Dtype Vec;
  typedef bool Mask;
  static const int kLanes = 1;
  static Vec Set(const Dtype value) { return value; }
  static Vec Load(const Dtype* from) { return *from; }
  static void Store(const Vec v, Dtype* to) { *to = v; }
  static void Stream(const Vec v, Dtype* to) { *to = v; }
  static Vec Abs(const Vec v) { return std::fabs(v); }
  /// @brief v, with its sign changed where that of the other is minus.
  static Vec Flip(const Vec v, const Vec other) { return other < 0 ? -v : v; }
  static Vec IfThenElse(const Mask mask, const Vec yes, const Vec no) {
    return mask ? yes : no;
  }
  static Vec IfThenElseZero(const Mask mask, const Vec yes) {
    return mask ? yes : Vec(0);
  }
  struct Sum {
    double sum;
    Sum() : sum(0) {}
    void Add(const Vec v) { sum += v; }
    void AddProduct(const Vec a, const Vec b) {
      sum += static_cast<double>(a) * b;
    }
    double Total() const { return sum; }
  };
};

#if defined(__GNUC__) && !defined(__INTEL_COMPILER) \
    && !defined(L1_LOSS_NO_VECTORS)

typedef double Doubles __attribute__((vector_size(16)));

template <typename Dtype> struct Lanes;

template <>
struct Lanes<float> {
  typedef float Vec __attribute__((vector_size(16)));
  typedef int Mask __attribute__((vector_size(16)));
#ifdef __SSE2__
  static Doubles Low(const Vec v) { return Doubles(_mm_cvtps_pd(__m128(v))); }
  static Doubles High(const Vec v) {
    return Doubles(_mm_cvtps_pd(_mm_movehl_ps(__m128(v), __m128(v))));
  }
#else
  static Doubles Low(const Vec v) {
    const Doubles low = {v[0], v[1]};
    return low;
  }
  static Doubles High(const Vec v) {
    const Doubles high = {v[2], v[3]};
    return high;
  }
#endif
  struct Sum {
    Doubles low, high;
    Sum() : low(Doubles()), high(Doubles()) {}
    void Add(const Vec v) {
      low += Low(v);
      high += High(v);
    }
    void AddProduct(const Vec a, const Vec b) {
      low += Low(a) * Low(b);
      high += High(a) * High(b);
    }
    double Total() const { return (low[0] + low[1]) + (high[0] + high[1]); }
  };
};

template <>
struct Lanes<double> {
  typedef Doubles Vec;
  typedef int64_t Mask __attribute__((vector_size(16)));
  struct Sum {
    Doubles sum;
    Sum() : sum(Doubles()) {}
    void Add(const Vec v) { sum += v; }
    void AddProduct(const Vec a, const Vec b) { sum += a * b; }
    double Total() const { return sum[0] + sum[1]; }
  };
};

// A mask has all bits of a lane set, or none.
template <typename Dtype>
struct Vector : Lanes<Dtype> {
  typedef typename Lanes<Dtype>::Vec Vec;
  typedef typename Lanes<Dtype>::Mask Mask;
  static const int kLanes = 16 / sizeof(Dtype);
  static Vec Set(const Dtype value) { return Vec() + value; }
  static Vec Load(const Dtype* from) {
    Vec v;
    memcpy(&v, from, sizeof(v));  // NOLINT(caffe/alt_fn)
    return v;
  }
  static void Store(const Vec v, Dtype* to) {
    memcpy(to, &v, sizeof(v));  // NOLINT(caffe/alt_fn)
  }
  // Past the caches; the place must be a multiple of 16.
  static void Stream(const Vec v, Dtype* to) {
#ifdef __SSE2__
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), __m128i(v));
#else
    Store(v, to);
#endif
  }
  static Mask SignBits() { return Mask(-Vec()); }
  static Vec Abs(const Vec v) { return Vec(Mask(v) & ~SignBits()); }
  static Vec Flip(const Vec v, const Vec other) {
    return Vec(Mask(v) ^ (Mask(other) & SignBits()));
  }
  static Vec IfThenElse(const Mask mask, const Vec yes, const Vec no) {
    return Vec((Mask(yes) & mask) | (Mask(no) & ~mask));
  }
  static Vec IfThenElseZero(const Mask mask, const Vec yes) {
    return Vec(Mask(yes) & mask);
  }
};

#else

template <typename Dtype> struct Vector : Lane<Dtype> {};

#endif  // __GNUC__

// ---- Elements ---------------------------------------------------------------

// What the elements are multiplied by.
template <typename Dtype>
struct Factor {
  const Dtype* each;  // a number for each of them; NULL stands for ones
  Dtype all;          // and one for all
};

// Neighbouring elements of the predictions and the targets.
template <typename Dtype>
struct Block {
  const Dtype* x;
  const Dtype* y;
  Factor<Dtype> factor;
  L1LossIgnore<Dtype> ignore;

  Block from(const int i) const {
    Block rest = *this;
    rest.x += i;
    rest.y += i;
    if (factor.each) { rest.factor.each += i; }
    return rest;
  }
};

// Which targets are ignored, told to the compiler.
enum Ignore { kNone = 0, kLabel = 1, kNonfinite = 2, kBoth = 3 };

template <typename Dtype>
Ignore IgnoreOf(const Block<Dtype>& block) {
  const bool label = block.ignore.label == block.ignore.label;
  return Ignore(label * kLabel | block.ignore.nonfinite * kNonfinite);
}

// v, but 0 where the target is ignored.
template <typename V, Ignore kIgnore, typename Dtype>
L1_LOSS_INLINE typename V::Vec Kept(const Block<Dtype>& block, const int i,
    typename V::Vec v) {
  const typename V::Vec y = V::Load(block.y + i);
  if (kIgnore & kLabel) {
    const typename V::Mask kept(y != V::Set(block.ignore.label));
    v = V::IfThenElseZero(kept, v);
  }
  if (kIgnore & kNonfinite) {
    const typename V::Mask kept(y - y == V::Set(0));
    v = V::IfThenElseZero(kept, v);
  }
  return v;
}

enum Quantity { kLoss, kOne, kNonzeroFactor };

// |x - y|, or what is counted, of the elements from number i on.
template <typename V, Quantity kQuantity, Ignore kIgnore, typename Dtype>
L1_LOSS_INLINE typename V::Vec At(const Block<Dtype>& block, const int i) {
  typename V::Vec v = V::Set(1);
  if (kQuantity == kLoss) {
    v = V::Abs(V::Load(block.x + i) - V::Load(block.y + i));
  } else if (kQuantity == kNonzeroFactor) {
    const typename V::Mask counts(V::Load(block.factor.each + i) != V::Set(0));
    v = V::IfThenElseZero(counts, v);
  }
  return Kept<V, kIgnore>(block, i, v);
}

// The elementwise loss factor |x - y|, or its gradient factor sign(x - y).
template <typename V, bool kGradient, bool kEach, Ignore kIgnore,
    typename Dtype>
L1_LOSS_INLINE typename V::Vec Written(const Block<Dtype>& block, const int i) {
  const typename V::Vec difference =
      V::Load(block.x + i) - V::Load(block.y + i);
  const typename V::Vec size = V::Abs(difference);
  typename V::Vec factor = V::Set(block.factor.all);
  if (kEach) { factor = factor * V::Load(block.factor.each + i); }
  if (!kGradient) { return Kept<V, kIgnore>(block, i, size * factor); }
  // The difference itself is the sign of 0 and of NaN.
  const typename V::Mask has_sign(size > V::Set(0));
  return Kept<V, kIgnore>(block, i, V::IfThenElse(has_sign,
      V::Flip(factor, difference), difference));
}

// ---- Sums over a block ------------------------------------------------------

template <Quantity kQuantity, Ignore kIgnore, typename Dtype>
L1_LOSS_INLINE typename Vector<Dtype>::Vec FourAt(const Block<Dtype>& block,
    const int i) {
  typedef Vector<Dtype> V;
  const int n = V::kLanes;
  return (At<V, kQuantity, kIgnore>(block, i)
      + At<V, kQuantity, kIgnore>(block, i + n))
      + (At<V, kQuantity, kIgnore>(block, i + 2 * n)
      + At<V, kQuantity, kIgnore>(block, i + 3 * n));
}

// Sums what is never negative. Sixteen meet in pairs in Dtype before they meet
// a double, which costs a relative error of four roundings at the most.
template <Quantity kQuantity, Ignore kIgnore, typename Dtype>
double SumOf(const int n, const Block<Dtype> block) {
  typedef Vector<Dtype> V;
  typename V::Sum sum;
  typename Lane<Dtype>::Sum rest;
  const int four = 4 * V::kLanes;
  int i = 0;
  for (; n - i >= 4 * four; i += 4 * four) {
    sum.Add((FourAt<kQuantity, kIgnore>(block, i)
        + FourAt<kQuantity, kIgnore>(block, i + four))
        + (FourAt<kQuantity, kIgnore>(block, i + 2 * four)
        + FourAt<kQuantity, kIgnore>(block, i + 3 * four)));
  }
  for (; n - i >= V::kLanes; i += V::kLanes) {
    sum.Add(At<V, kQuantity, kIgnore>(block, i));
  }
  for (; i < n; ++i) {
    rest.Add(At<Lane<Dtype>, kQuantity, kIgnore>(block, i));
  }
  return sum.Total() + rest.Total();
}

// Sums products with factors of either sign, which can cancel: in double.
template <Quantity kQuantity, Ignore kIgnore, typename Dtype>
double SumOfProducts(const int n, const Block<Dtype> block) {
  typedef Vector<Dtype> V;
  typedef Lane<Dtype> L;
  const Dtype* const each = block.factor.each;
  typename V::Sum even, odd;
  typename L::Sum rest;
  int i = 0;
  for (; n - i >= 2 * V::kLanes; i += 2 * V::kLanes) {
    const int next = i + V::kLanes;
    even.AddProduct(At<V, kQuantity, kIgnore>(block, i),
        Kept<V, kIgnore>(block, i, V::Load(each + i)));
    odd.AddProduct(At<V, kQuantity, kIgnore>(block, next),
        Kept<V, kIgnore>(block, next, V::Load(each + next)));
  }
  for (; i < n; ++i) {
    rest.AddProduct(At<L, kQuantity, kIgnore>(block, i),
        Kept<L, kIgnore>(block, i, each[i]));
  }
  return even.Total() + odd.Total() + rest.Total();
}

// The same for what has left the range of Dtype, or is NaN or infinite.
template <typename Dtype>
double SumOfDoubles(const int n, const Block<Dtype>& block) {
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    if (block.ignore(block.y[i])) { continue; }
    const double factor = block.factor.each ? block.factor.each[i]
        : block.factor.all;
    sum += factor * std::fabs(static_cast<double>(block.x[i]) - block.y[i]);
  }
  return sum;
}

template <Ignore kIgnore, typename Dtype>
double SumOfLosses(const int n, const Block<Dtype>& block) {
  const double sum = block.factor.each
      ? SumOfProducts<kLoss, kIgnore>(n, block)
      : block.factor.all * SumOf<kLoss, kIgnore>(n, block);
  return sum - sum == 0 ? sum : SumOfDoubles(n, block);
}

template <Ignore kIgnore, typename Dtype>
double SumOfCounted(const int n, const Block<Dtype>& block,
    const bool sum_weights) {
  if (block.factor.each) {
    return sum_weights ? SumOfProducts<kOne, kIgnore>(n, block)
        : SumOf<kNonzeroFactor, kIgnore>(n, block);
  }
  const double weight = sum_weights ? block.factor.all : block.factor.all != 0;
  const double count = SumOf<kOne, kIgnore>(n, block);
  return count == 0 ? 0 : weight * count;  // all ignored, whatever they weigh
}

// ---- Writing a block --------------------------------------------------------

// Where to: the negatives too if minus is not NULL. What is large will not be
// read before it has left the caches, so that reading it into them first would
// be wasted.
template <typename Dtype>
struct Output {
  Dtype* plus;
  Dtype* minus;
  bool large;

  void advance(const int n) {
    plus += n;
    if (minus) { minus += n; }
  }
};

const size_t kLargeBytes = 8 << 20;

template <typename Dtype>
Output<Dtype> MakeOutput(const int count, Dtype* plus, Dtype* minus) {
  const Output<Dtype> output = {plus, minus,
      count * sizeof(Dtype) >= kLargeBytes};
  return output;
}

// Whether two arrays, if both are there, lie in their pages at the same place.
inline bool InStep(const void* a, const void* b) {
  const size_t kPage = 4096;
  return !a || !b || (reinterpret_cast<size_t>(a)
      - reinterpret_cast<size_t>(b)) % kPage == 0;
}

// Whether a block is written past the caches. A load waits for a store before
// it that went there if only the place in the page is the same, so all arrays
// must be in step, or it is ten times slower instead of faster.
template <typename Dtype>
bool Streams(const Block<Dtype>& block, const Output<Dtype>& output) {
  return output.large && reinterpret_cast<size_t>(output.plus) % 16 == 0
      && InStep(output.plus, output.minus) && InStep(output.plus, block.x)
      && InStep(output.plus, block.y)
      && InStep(output.plus, block.factor.each);
}

// Lets other threads see what went past the caches.
inline void FinishStream() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

template <typename V, bool kStream, typename Dtype>
L1_LOSS_INLINE void Put(const typename V::Vec v, Dtype* to) {
  if (kStream) { V::Stream(v, to); } else { V::Store(v, to); }
}

// Two loops: one that asks for minus each time takes a third longer.
template <typename V, bool kStream, bool kGradient, bool kEach, Ignore kIgnore,
    typename Dtype>
int WriteLoop(int i, const int n, const Block<Dtype> block,
    const Output<Dtype>& output) {
  Dtype* const plus = output.plus;
  Dtype* const minus = output.minus;
  if (!minus) {
    for (; n - i >= V::kLanes; i += V::kLanes) {
      Put<V, kStream>(Written<V, kGradient, kEach, kIgnore>(block, i),
          plus + i);
    }
    return i;
  }
  for (; n - i >= V::kLanes; i += V::kLanes) {
    const typename V::Vec v = Written<V, kGradient, kEach, kIgnore>(block, i);
    Put<V, kStream>(v, plus + i);
    Put<V, kStream>(-v, minus + i);
  }
  return i;
}

template <bool kGradient, bool kEach, Ignore kIgnore, typename Dtype>
void WriteBlock(const int n, const Block<Dtype>& block,
    const Output<Dtype>& output) {
  typedef Vector<Dtype> V;
  typedef Lane<Dtype> L;
  const int i = Streams(block, output)
      ? WriteLoop<V, true, kGradient, kEach, kIgnore>(0, n, block, output)
      : WriteLoop<V, false, kGradient, kEach, kIgnore>(0, n, block, output);
  WriteLoop<L, false, kGradient, kEach, kIgnore>(i, n, block, output);
}

template <bool kGradient, bool kEach, typename Dtype>
void WriteKept(const int n, const Block<Dtype>& block,
    const Output<Dtype>& output) {
  switch (IgnoreOf(block)) {
    case kNone: return WriteBlock<kGradient, kEach, kNone>(n, block, output);
    case kLabel: return WriteBlock<kGradient, kEach, kLabel>(n, block, output);
    case kNonfinite:
      return WriteBlock<kGradient, kEach, kNonfinite>(n, block, output);
    default: return WriteBlock<kGradient, kEach, kBoth>(n, block, output);
  }
}

template <bool kGradient, typename Dtype>
void Write(const int n, const Block<Dtype>& block,
    const Output<Dtype>& output) {
  block.factor.each ? WriteKept<kGradient, true>(n, block, output)
      : WriteKept<kGradient, false>(n, block, output);
}

// ---- Factors that are broadcast ---------------------------------------------
//
// The layer goes through its inputs once, in blocks. What is broadcast to them
// is written down for a block, which stays in the first level cache.

const int kBlock = 1024;

// From this number on, elements of the same factor are a block of their own.
const int kLongRun = 64;

// How many of n elements from number begin on are taken at a time: no more than
// have the same factor, if these are many. Every block begins with a whole
// vector, so that it can be streamed.
template <typename Dtype>
int Apart(const L1LossBroadcast& map, const int begin, const int n) {
  const int run = map.run(begin);
  const bool apart = run >= kLongRun && run % Vector<Dtype>::kLanes == 0;
  return apart ? std::min(n, run) : n;
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
      std::fill(out, out + run, *factor);
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

// The factors of the elements begin, ..., begin + n - 1; 1 without a map.
template <typename Dtype>
Factor<Dtype> FactorOf(const L1LossBroadcast& map, const Dtype* factor,
    const int begin, const int n, Dtype* buffer) {
  Factor<Dtype> result = {NULL, Dtype(1)};
  if (!factor) { return result; }
  if (map.run(begin) >= n) {
    result.all = factor[map.index(begin)];
  } else if (map.identity()) {
    result.each = factor + begin;
  } else {
    Expand(map, factor, begin, n, buffer);
    result.each = buffer;
  }
  return result;
}

// a b numerator / divisor. Written down in the buffer, each rounded once, where
// what is the same for all would be lost in Dtype: the divisor may be tiny or
// huge because the weights are.
template <typename Dtype>
Factor<Dtype> Product(const int n, const Factor<Dtype>& a,
    const Factor<Dtype>& b, const double numerator, const double divisor,
    Dtype* buffer) {
  const double scale = numerator * a.all * b.all;
  Factor<Dtype> product = {a.each ? a.each : b.each,
      static_cast<Dtype>(scale / divisor)};
  const Dtype least = product.each ? std::numeric_limits<Dtype>::min() : 0;
  if (!(a.each && b.each) && (scale == 0 || (product.all - product.all == 0
      && std::fabs(product.all) >= least))) {
    return product;
  }
  for (int i = 0; i < n; ++i) {
    buffer[i] = scale * (a.each ? a.each[i] : 1) * (b.each ? b.each[i] : 1)
        / divisor;
  }
  product.each = buffer;
  product.all = 1;
  return product;
}

// ---- What the options make of the bottoms -----------------------------------

template <typename Dtype>
struct Inputs {
  const Dtype* x;
  const Dtype* y;
  const Dtype* w;  // NULL without weights
  L1LossBroadcast weight_map;
  L1LossIgnore<Dtype> ignore;

  // How many elements from number begin on are taken at a time.
  int block(const int begin, const int count) const {
    const int n = std::min(kBlock, count - begin);
    return w ? Apart<Dtype>(weight_map, begin, n) : n;
  }
  Block<Dtype> at(const int begin, const Factor<Dtype>& factor) const {
    const Block<Dtype> block = {x + begin, y + begin, factor, ignore};
    return block;
  }
  // The buffer holds kBlock elements.
  Factor<Dtype> weights(const int begin, const int n, Dtype* buffer) const {
    return FactorOf(weight_map, w, begin, n, buffer);
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

// The sum of e over a block.
template <typename Dtype>
double Loss(const int n, const Block<Dtype>& block) {
  switch (IgnoreOf(block)) {
    case kNone: return SumOfLosses<kNone>(n, block);
    case kLabel: return SumOfLosses<kLabel>(n, block);
    case kNonfinite: return SumOfLosses<kNonfinite>(n, block);
    default: return SumOfLosses<kBoth>(n, block);
  }
}

// What a block adds to a divisor that counts.
template <typename Dtype>
double Counted(const int n, const Block<Dtype>& block, const bool sum_weights) {
  switch (IgnoreOf(block)) {
    case kNone: return SumOfCounted<kNone>(n, block, sum_weights);
    case kLabel: return SumOfCounted<kLabel>(n, block, sum_weights);
    case kNonfinite: return SumOfCounted<kNonfinite>(n, block, sum_weights);
    default: return SumOfCounted<kBoth>(n, block, sum_weights);
  }
}

template <typename Dtype>
void WriteLosses(const Inputs<Dtype>& inputs, const int count, Dtype* top) {
  Output<Dtype> output = MakeOutput<Dtype>(count, top, NULL);
  for (int begin = 0, n; begin < count; begin += n) {
    n = inputs.block(begin, count);
    Dtype buffer[kBlock];
    Write<false>(n, inputs.at(begin, inputs.weights(begin, n, buffer)), output);
    output.advance(n);
  }
  FinishStream();
}

// The means of e over rows of so many elements.
template <typename Dtype>
void WriteRowMeans(const Inputs<Dtype>& inputs, const int count, const int row,
    Dtype* top) {
  double sum = 0;
  int left = row;  // of the row that is being summed
  for (int begin = 0, n; begin < count; begin += n) {
    n = inputs.block(begin, count);
    Dtype buffer[kBlock];
    const Block<Dtype> block =
        inputs.at(begin, inputs.weights(begin, n, buffer));
    for (int at = 0, part; at < n; at += part) {
      part = std::min(left, n - at);
      sum += Loss(part, block.from(at));
      left -= part;
      if (left == 0) {
        *top++ = sum / row;
        sum = 0;
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
  for (int i = 0; i < bottom.size(); ++i) {
    if (top[0] == bottom[i]) {
      LOG(FATAL) << where() << "top[0] is bottom[" << i << "]; fix: give the "
          << "top a name of its own";
    }
  }
  options_ = ReadOptions(this->layer_param_, where());
  ignore_.label = options_.has_ignore_label()
      ? static_cast<Dtype>(options_.ignore_label())
      : std::numeric_limits<Dtype>::quiet_NaN();
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

// Caffe writes the loss_weight into the diff of a top once, after the first
// Reshape. In a scalar it stays; elsewhere it must be written into what has
// come since, or the net stops learning without a word.
template <typename Dtype>
void L1LossLayer<Dtype>::ReshapeTop(const vector<int>& shape,
    Blob<Dtype>* top) {
  if (std::count(shape.begin(), shape.end(), 0) > 0) {
    // Caffe writes into the diff of an empty top too, which must exist.
    L1LossReshape(vector<int>(1, 1), top);
  }
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
  double loss = 0, counted = 0;
  if (count > 0) {
    const Inputs<Dtype> inputs = MakeInputs(bottom, weight_map_, ignore_);
    for (int begin = 0, n; begin < count; begin += n) {
      n = inputs.block(begin, count);
      Dtype buffer[kBlock];
      const Block<Dtype> block =
          inputs.at(begin, inputs.weights(begin, n, buffer));
      // In this order y or w comes from the memory now, and the rest below:
      // that is faster than everything at once.
      if (counts()) {
        counted += Counted(n, block,
            options_.reduction() == L1LossParameter::WEIGHTED_MEAN);
      }
      loss += Loss(n, block);
    }
  }
  divisor_ = Divisor(*bottom[0], counted);
  top->mutable_cpu_data()[0] = divisor_ == 0 ? 0 : loss / divisor_;
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
  const Inputs<Dtype> inputs = MakeInputs(bottom, weight_map_, ignore_);
  // The gradient of the targets alone is written with the sign changed.
  Output<Dtype> output = diff[0] ? MakeOutput(count, diff[0], diff[1])
      : MakeOutput(count, diff[1], diff[0]);
  const double numerator = (reduced ? top_diff[0] : 1.) * (diff[0] ? 1 : -1);
  for (int begin = 0, n; begin < count; begin += n) {
    n = inputs.block(begin, count);
    if (!reduced) { n = Apart<Dtype>(top_map_, begin, n); }
    Dtype weights[kBlock], factors[kBlock];
    const Factor<Dtype> weight = inputs.weights(begin, n, weights);
    const Factor<Dtype> top_factor = FactorOf(top_map_,
        reduced ? NULL : top_diff, begin, n, factors);
    const Factor<Dtype> factor =
        Product(n, weight, top_factor, numerator, divisor_, factors);
    Write<true>(n, inputs.at(begin, factor), output);
    output.advance(n);
  }
  FinishStream();
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

// Asks first, since a registry of another Caffe may be of another shape. One
// that knows the type already aborts, so a second plugin steps aside.
struct PluginRegistration {
  PluginRegistration() {
    if (!L1LossPluginFits()) { return; }
    if (LayerRegistry<float>::Registry().count("L1Loss")) {
      LOG(WARNING) << "this Caffe has an L1Loss layer already; the plugin "
          << "leaves it in place";
      return;
    }
    LayerRegistry<float>::AddCreator("L1Loss", CreateL1LossLayer<float>);
    LayerRegistry<double>::AddCreator("L1Loss", CreateL1LossLayer<double>);
  }
};

static const PluginRegistration plugin_registration;

#else

REGISTER_LAYER_CLASS(L1Loss);

#endif  // L1_LOSS_PLUGIN

}  // namespace caffe
