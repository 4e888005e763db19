#include <algorithm>
#include <cmath>
#include <cstring>
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

// What makes one loop of the parts that its body is put together from.
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

// ---- Packs of elements ------------------------------------------------------
//
// Caffe's Makefile compiles with -O2, where GCC before 12 vectorises nothing of
// itself. What is written in vector types it always does; clang knows them too.
// What is left at an end goes one by one, and everything does under another
// compiler: an element is a pack of one.

template <typename Dtype>
struct One {
  typedef Dtype Pack;
  typedef bool Mask;
  static const int kCount = 1;
  static Pack All(const Dtype value) { return value; }
  static Pack Load(const Dtype* from) { return *from; }
  static void Store(const Pack pack, Dtype* to) { *to = pack; }
  static void Stream(const Pack pack, Dtype* to) { *to = pack; }
  static void AddTo(const Pack pack, double* lanes) { *lanes += pack; }
  static Pack Abs(const Pack pack) { return std::fabs(pack); }
  /// @brief pack, with its sign changed where that of the other is minus.
  static Pack Flip(const Pack pack, const Pack other) {
    return other < 0 ? -pack : pack;
  }
  static Pack Select(const Mask mask, const Pack yes, const Pack no) {
    return mask ? yes : no;
  }
};

#if defined(__GNUC__) && !defined(__INTEL_COMPILER)

template <typename Dtype> struct PackTypes;

template <>
struct PackTypes<float> {
  typedef float Pack __attribute__((vector_size(16)));
  typedef int Mask __attribute__((vector_size(16)));
  static Pack All(const float a) {
    const Pack pack = {a, a, a, a};
    return pack;
  }
  static void AddTo(const Pack pack, double* lanes) {
    lanes[0] += pack[0];
    lanes[1] += pack[1];
    lanes[2] += pack[2];
    lanes[3] += pack[3];
  }
};

template <>
struct PackTypes<double> {
  typedef double Pack __attribute__((vector_size(16)));
  typedef int64_t Mask __attribute__((vector_size(16)));
  static Pack All(const double a) {
    const Pack pack = {a, a};
    return pack;
  }
  static void AddTo(const Pack pack, double* lanes) {
    lanes[0] += pack[0];
    lanes[1] += pack[1];
  }
};

// A mask has all bits of an element set, or none.
template <typename Dtype>
struct Many : PackTypes<Dtype> {
  typedef typename PackTypes<Dtype>::Pack Pack;
  typedef typename PackTypes<Dtype>::Mask Mask;
  static const int kCount = 16 / sizeof(Dtype);
  static Pack Load(const Dtype* from) {
    Pack pack;
    memcpy(&pack, from, sizeof(pack));  // NOLINT(caffe/alt_fn)
    return pack;
  }
  static void Store(const Pack pack, Dtype* to) {
    memcpy(to, &pack, sizeof(pack));  // NOLINT(caffe/alt_fn)
  }
  // Past the caches; the place must be a multiple of 16.
  static void Stream(const Pack pack, Dtype* to) {
#ifdef __SSE2__
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), __m128i(pack));
#else
    Store(pack, to);
#endif
  }
  static Mask SignBits() { return Mask(Many::All(Dtype(-0.))); }
  static Pack Abs(const Pack pack) { return Pack(Mask(pack) & ~SignBits()); }
  static Pack Flip(const Pack pack, const Pack other) {
    return Pack(Mask(pack) ^ (Mask(other) & SignBits()));
  }
  static Pack Select(const Mask mask, const Pack yes, const Pack no) {
    return Pack((Mask(yes) & mask) | (Mask(no) & ~mask));
  }
};

#else

template <typename Dtype> struct Many : One<Dtype> {};

#endif  // __GNUC__

// ---- Terms ------------------------------------------------------------------
//
// What is computed for the elements of a block, from number i on.

template <typename Dtype>
struct Value {  // of each element, or with a mask of 0 one of all
  const Dtype* value;
  int mask;
  template <typename P>
  L1_LOSS_INLINE typename P::Pack at(const int i) const {
    return P::Load(value + (i & mask));
  }
};

template <typename Dtype>
struct Loss {
  const Dtype* x;
  const Dtype* y;
  template <typename P>
  L1_LOSS_INLINE typename P::Pack at(const int i) const {
    return P::Abs(P::Load(x + i) - P::Load(y + i));
  }
};

// a sign(x - y); x - y itself stands for the sign of 0 and of NaN.
template <typename Dtype>
struct Sign {
  const Dtype* x;
  const Dtype* y;
  Dtype a;
  template <typename P>
  L1_LOSS_INLINE typename P::Pack at(const int i) const {
    const typename P::Pack difference = P::Load(x + i) - P::Load(y + i);
    const typename P::Mask has_sign(P::Abs(difference) > P::All(0));
    return P::Select(has_sign, P::Flip(P::All(a), difference), difference);
  }
};

template <typename A, typename B>
struct Times {
  A a;
  B b;
  template <typename P>
  L1_LOSS_INLINE typename P::Pack at(const int i) const {
    return a.template at<P>(i) * b.template at<P>(i);
  }
};

template <typename Term>
struct OneWhereNotZero {
  Term term;
  template <typename P>
  L1_LOSS_INLINE typename P::Pack at(const int i) const {
    const typename P::Mask not_zero(term.template at<P>(i) != P::All(0));
    return P::Select(not_zero, P::All(1), P::All(0));
  }
};

template <typename Dtype, typename Term>
struct ZeroAtLabel {
  Term term;
  const Dtype* y;
  Dtype label;
  template <typename P>
  L1_LOSS_INLINE typename P::Pack at(const int i) const {
    const typename P::Mask kept(P::Load(y + i) != P::All(label));
    return P::Select(kept, term.template at<P>(i), P::All(0));
  }
};

template <typename Dtype, typename Term>
struct ZeroAtNonfinite {
  Term term;
  const Dtype* y;
  template <typename P>
  L1_LOSS_INLINE typename P::Pack at(const int i) const {
    const typename P::Pack zero = P::Load(y + i) - P::Load(y + i);
    const typename P::Mask kept(zero == P::All(0));
    return P::Select(kept, term.template at<P>(i), P::All(0));
  }
};

// ---- What is done with the terms of a block ---------------------------------

template <int kTerms>
struct Pairs {  // adds the terms of so many packs, from number i on, in pairs
  template <typename P, typename Term>
  static L1_LOSS_INLINE typename P::Pack Sum(const Term& term, const int i) {
    return Pairs<kTerms / 2>::template Sum<P>(term, i)
        + Pairs<kTerms / 2>::template Sum<P>(term, i + kTerms / 2 * P::kCount);
  }
};

template <>
struct Pairs<1> {
  template <typename P, typename Term>
  static L1_LOSS_INLINE typename P::Pack Sum(const Term& term, const int i) {
    return term.template at<P>(i);
  }
};

// Adds them up, in double. Sixteen meet in pairs before they meet the double,
// which costs a relative error of four roundings at the most.
template <typename Dtype>
struct Add {
  double sum;

  template <typename Term>
  void operator()(const int n, const Term term) {
    typedef Many<Dtype> P;
    const int kRun = 16 * P::kCount;
    double lanes[P::kCount] = {0}, added = 0;
    int i = 0;
    for (; n - i >= kRun; i += kRun) {
      P::AddTo(Pairs<16>::template Sum<P>(term, i), lanes);
    }
    for (; n - i >= P::kCount; i += P::kCount) {
      P::AddTo(term.template at<P>(i), lanes);
    }
    for (; i < n; ++i) { added += term.template at<One<Dtype> >(i); }
    for (int k = 0; k < P::kCount; ++k) { added += lanes[k]; }
    if (!(added - added == 0)) {
      // NaN, infinity, or terms that together left the range of Dtype.
      added = 0;
      for (i = 0; i < n; ++i) { added += term.template at<One<Dtype> >(i); }
    }
    sum += added;
  }
};

// Writes them to out, and their negatives to minus if that is not NULL; past
// the caches if stream is set, for which both must be multiples of 16.
template <typename Dtype>
struct Write {
  Dtype* out;
  Dtype* minus;
  bool stream;

  void advance(const int n) {
    out += n;
    if (minus) { minus += n; }
  }
  template <typename Term>
  void operator()(const int n, const Term term) const {
    typedef Many<Dtype> P;
    const int i = stream ? Each<P, true>(0, n, term)
        : Each<P, false>(0, n, term);
    Each<One<Dtype>, false>(i, n, term);
  }
  // Two loops: one that asks for minus each time takes a third longer.
  template <typename P, bool kStream, typename Term>
  int Each(int i, const int n, const Term term) const {
    Dtype* const plus = out;
    Dtype* const negative = minus;
    if (!negative) {
      for (; n - i >= P::kCount; i += P::kCount) {
        Put<P, kStream>(term.template at<P>(i), plus + i);
      }
      return i;
    }
    for (; n - i >= P::kCount; i += P::kCount) {
      const typename P::Pack pack = term.template at<P>(i);
      Put<P, kStream>(pack, plus + i);
      Put<P, kStream>(-pack, negative + i);
    }
    return i;
  }
  template <typename P, bool kStream>
  static void Put(const typename P::Pack pack, Dtype* to) {
    if (kStream) { P::Stream(pack, to); } else { P::Store(pack, to); }
  }
};

// From this size on, what is written will not be read before it has left the
// caches, so that reading it into them first would be wasted.
const size_t kStreamBytes = 8 << 20;

// A writer of so many elements.
template <typename Dtype>
Write<Dtype> MakeWrite(const int count, Dtype* out, Dtype* minus) {
  const size_t places =
      reinterpret_cast<size_t>(out) | reinterpret_cast<size_t>(minus);
  const Write<Dtype> write = {out, minus,
      count * sizeof(Dtype) >= kStreamBytes && places % 16 == 0};
  return write;
}

// Lets other threads see what went past the caches.
inline void FinishStream() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// ---- Factors that are broadcast ---------------------------------------------
//
// The layer goes through its inputs once, in blocks. What is broadcast to them
// is written down for a block, which stays in the first level cache.

const int kBlock = 1024;

// From this number on, elements of the same factor are a block of their own.
const int kLongRun = 64;

// The same factor for all elements; the buffer holds a pack.
template <typename Dtype>
Value<Dtype> Uniform(const Dtype factor, Dtype* buffer) {
  std::fill(buffer, buffer + Many<Dtype>::kCount, factor);
  const Value<Dtype> value = {buffer, 0};
  return value;
}

template <typename Dtype>
void Fill(const int n, const Dtype factor, Dtype* out) {
  Dtype buffer[Many<Dtype>::kCount];
  const Write<Dtype> write = {out, NULL, false};
  write(n, Uniform(factor, buffer));
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

// The factors of the elements begin, ..., begin + n - 1; the buffer holds a
// block.
template <typename Dtype>
Value<Dtype> Factors(const L1LossBroadcast& map, const Dtype* factor,
    const int begin, const int n, Dtype* buffer) {
  if (map.run(begin) >= n) {
    return Uniform(factor[map.index(begin)], buffer);
  }
  Value<Dtype> value = {factor + begin, -1};
  if (!map.identity()) {
    Expand(map, factor, begin, n, buffer);
    value.value = buffer;
  }
  return value;
}

// ---- What the options make of the bottoms -----------------------------------

template <typename Dtype>
struct Inputs {
  const Dtype* x;
  const Dtype* y;
  const Dtype* w;  // NULL without weights
  L1LossBroadcast weight_map;
  L1LossIgnore<Dtype> ignore;

  // How many elements from number begin on are taken at a time: no more than
  // have the same weight, if these are many. Every block begins with a whole
  // pack, so that it can be streamed.
  int block(const int begin, const int count) const {
    const int n = std::min(kBlock, count - begin);
    const int run = w ? weight_map.run(begin) : n;
    const bool apart = run >= kLongRun && run % Many<Dtype>::kCount == 0;
    return apart ? std::min(n, run) : n;
  }
  // The weights of the elements begin, ..., begin + n - 1.
  Value<Dtype> weights(const int begin, const int n, Dtype* buffer) const {
    return w ? Factors(weight_map, w, begin, n, buffer)
        : Uniform(Dtype(1), buffer);
  }
  // Does the action with e of the same elements.
  template <typename Action>
  void losses(const int begin, const int n, Action* action) const {
    const Loss<Dtype> loss = {x + begin, y + begin};
    if (!w) { return kept(begin, n, loss, action); }
    Dtype buffer[kBlock];
    const Times<Loss<Dtype>, Value<Dtype> > e = {loss,
        weights(begin, n, buffer)};
    kept(begin, n, e, action);
  }
  // Does it with a w sign(x - y), times the factors unless these are NULL.
  template <typename Action>
  void gradients(const int begin, const int n, const Dtype a,
      const Value<Dtype>* factors, Action* action) const {
    const Sign<Dtype> sign = {x + begin, y + begin, a};
    if (!w && !factors) { return kept(begin, n, sign, action); }
    Dtype buffer[kBlock];
    const Value<Dtype> factor = w ? weights(begin, n, buffer) : *factors;
    const Times<Sign<Dtype>, Value<Dtype> > product = {sign, factor};
    if (!w || !factors) { return kept(begin, n, product, action); }
    const Times<Times<Sign<Dtype>, Value<Dtype> >, Value<Dtype> > both = {
        product, *factors};
    kept(begin, n, both, action);
  }
  // What the same elements add to a divisor that counts.
  double counted(const int begin, const int n, const bool sum_weights) const {
    Add<Dtype> add = {0};
    Dtype buffer[kBlock];
    const Value<Dtype> weight = weights(begin, n, buffer);
    if (sum_weights || !w) {
      kept(begin, n, weight, &add);
    } else {
      const OneWhereNotZero<Value<Dtype> > valid = {weight};
      kept(begin, n, valid, &add);
    }
    return add.sum;
  }

  // Does the action with the terms, which are 0 where the target is ignored.
  template <typename Term, typename Action>
  void kept(const int begin, const int n, const Term& term,
      Action* action) const {
    if (!ignore.label) { return finite(begin, n, term, action); }
    const ZeroAtLabel<Dtype, Term> kept_term = {term, y + begin,
        ignore.label_value};
    finite(begin, n, kept_term, action);
  }
  template <typename Term, typename Action>
  void finite(const int begin, const int n, const Term& term,
      Action* action) const {
    if (!ignore.nonfinite) { return (*action)(n, term); }
    const ZeroAtNonfinite<Dtype, Term> finite_term = {term, y + begin};
    (*action)(n, finite_term);
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
  Write<Dtype> write = MakeWrite<Dtype>(count, top, NULL);
  for (int begin = 0, n; begin < count; begin += n) {
    n = inputs.block(begin, count);
    inputs.losses(begin, n, &write);
    write.advance(n);
  }
  FinishStream();
}

// The means of e over rows of so many elements.
template <typename Dtype>
void WriteRowMeans(const Inputs<Dtype>& inputs, const int count, const int row,
    Dtype* top) {
  Dtype e[kBlock];
  const Write<Dtype> write = {e, NULL, false};
  Add<Dtype> add = {0};
  int left = row;  // of the row that is being summed
  for (int begin = 0, n; begin < count; begin += n) {
    n = inputs.block(begin, count);
    inputs.losses(begin, n, &write);
    for (int at = 0, part; at < n; at += part) {
      part = std::min(left, n - at);
      const Value<Dtype> values = {e + at, -1};
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
    for (int begin = 0, n; begin < count; begin += n) {
      n = inputs.block(begin, count);
      // In this order y or w comes from the memory now, and the rest below:
      // that is faster than everything at once.
      if (counts()) {
        counted += inputs.counted(begin, n,
            options_.reduction() == L1LossParameter::WEIGHTED_MEAN);
      }
      inputs.losses(begin, n, &loss);
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
  // The gradient of the targets alone is written with the sign changed.
  Write<Dtype> write = diff[0] ? MakeWrite(count, diff[0], diff[1])
      : MakeWrite(count, diff[1], diff[0]);
  const Dtype a = diff[0] ? scale : -scale;
  for (int begin = 0, n; begin < count; begin += n) {
    n = inputs.block(begin, count);
    Dtype buffer[kBlock];
    Value<Dtype> factors;
    if (!reduced) { factors = Factors(top_map_, top_diff, begin, n, buffer); }
    inputs.gradients(begin, n, a, reduced ? NULL : &factors, &write);
    write.advance(n);
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
