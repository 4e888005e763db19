#ifndef CAFFE_UTIL_L1_LOSS_SIMD_HPP_
#define CAFFE_UTIL_L1_LOSS_SIMD_HPP_

#include <stdint.h>

#include <cmath>
#include <cstring>

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

// Vectors of lanes, in the words of Google Highway. Caffe's Makefile compiles
// with -O2, where GCC before 12 vectorises nothing of itself. What is written
// in vector types it always does; clang knows them too.
namespace l1_loss_simd {

/// @brief A lane alone, which computes in Number.
template <typename Dtype, typename Number = Dtype>
struct Lane {
  typedef Number Vec;
  typedef double Wide;
  static const int kLanes = 1;
  static Vec Set(const Dtype value) { return value; }
  static Vec Load(const Dtype* from) { return *from; }
  static void Store(const Vec v, Dtype* to) { *to = v; }
  static Vec Abs(const Vec v) { return std::fabs(v); }
  /// @brief v times the sign of d, which is d itself where d is 0 or NaN.
  static Vec WithSign(const Vec v, const Vec d) {
    return d > 0 ? v : d < 0 ? -v : d;
  }
  static Wide Low(const Vec v) { return v; }
  static Wide High(Vec) { return 0; }
  static double SumOfLanes(const Wide wide) { return wide; }
};

/// @brief Sums products in double, lane by lane.
template <typename V>
struct Sum {
  typename V::Wide low, high;
  Sum() : low(), high() {}
  L1_LOSS_INLINE void Add(const typename V::Vec a, const typename V::Vec b) {
    low += V::Low(a) * V::Low(b);
    high += V::High(a) * V::High(b);
  }
  double Total() const { return V::SumOfLanes(low) + V::SumOfLanes(high); }
};

#if defined(__GNUC__) && !defined(__INTEL_COMPILER) \
    && !defined(L1_LOSS_NO_VECTORS)

typedef double Doubles __attribute__((vector_size(16)));
typedef int64_t Bits __attribute__((vector_size(16)));

template <typename Dtype> struct Lanes;

template <>
struct Lanes<float> {
  typedef float Vec __attribute__((vector_size(16)));
  static Doubles Low(const Vec v) {
#ifdef __SSE2__
    return Doubles(_mm_cvtps_pd(__m128(v)));
#else
    const Doubles low = {v[0], v[1]};
    return low;
#endif
  }
  static Doubles High(const Vec v) {
    const Vec high = {v[2], v[3], v[2], v[3]};
    return Low(high);
  }
};

template <>
struct Lanes<double> {
  typedef Doubles Vec;
  static Doubles Low(const Vec v) { return v; }
  static Doubles High(Vec) { return Doubles(); }
};

/// @brief 16 bytes of lanes.
template <typename Dtype>
struct Vector : Lanes<Dtype> {
  typedef typename Lanes<Dtype>::Vec Vec;
  typedef Doubles Wide;
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
  static Bits SignBits() { return Bits(-Vec()); }
  static Vec Abs(const Vec v) { return Vec(Bits(v) & ~SignBits()); }
  static Vec WithSign(const Vec v, const Vec d) {
    const Bits has_sign = Bits(Abs(d) > Vec());
    return Vec(((Bits(v) ^ (Bits(d) & SignBits())) & has_sign)
        | (Bits(d) & ~has_sign));
  }
  static double SumOfLanes(const Wide wide) { return wide[0] + wide[1]; }
};

/// @brief Stores past the caches, to places that are multiples of 16.
template <typename Dtype>
struct Streaming : Vector<Dtype> {
#ifdef __SSE2__
  static void Store(const typename Vector<Dtype>::Vec v, Dtype* to) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), __m128i(v));
  }
#endif
};

#else  // a lane at a time

template <typename Dtype> struct Vector : Lane<Dtype> {};
template <typename Dtype> struct Streaming : Lane<Dtype> {};

#endif  // __GNUC__

/// @brief Lets other threads see what was stored past the caches.
inline void FlushStream() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace l1_loss_simd

}  // namespace caffe

#endif  // CAFFE_UTIL_L1_LOSS_SIMD_HPP_
