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
  typedef bool Mask;
  static const int kLanes = 1;
  static Vec Set(const Dtype value) { return value; }
  static Vec Load(const Dtype* from) { return *from; }
  static void Store(const Vec v, Dtype* to) { *to = v; }
  static Vec Abs(const Vec v) { return std::fabs(v); }
  /// @brief v, with its sign changed where that of the other is minus.
  static Vec Flip(const Vec v, const Vec other) { return other < 0 ? -v : v; }
  static Vec IfThenElse(const Mask mask, const Vec yes, const Vec no) {
    return mask ? yes : no;
  }
  /// @brief Sums in double, lane by lane.
  struct Sum {
    double sum;
    Sum() : sum(0) {}
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
  struct Sum {
    Doubles low, high;
    Sum() : low(Doubles()), high(Doubles()) {}
    L1_LOSS_INLINE void AddProduct(const Vec a, const Vec b) {
#ifdef __SSE2__
      const __m128 c(a), d(b);
      low += Doubles(_mm_cvtps_pd(c)) * Doubles(_mm_cvtps_pd(d));
      high += Doubles(_mm_cvtps_pd(_mm_movehl_ps(c, c)))
          * Doubles(_mm_cvtps_pd(_mm_movehl_ps(d, d)));
#else
      const Doubles a_low = {a[0], a[1]}, a_high = {a[2], a[3]};
      const Doubles b_low = {b[0], b[1]}, b_high = {b[2], b[3]};
      low += a_low * b_low;
      high += a_high * b_high;
#endif
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
    void AddProduct(const Vec a, const Vec b) { sum += a * b; }
    double Total() const { return sum[0] + sum[1]; }
  };
};

/// @brief 16 bytes of lanes; a mask has all bits of a lane set, or none.
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
  static Mask SignBits() { return Mask(-Vec()); }
  static Vec Abs(const Vec v) { return Vec(Mask(v) & ~SignBits()); }
  static Vec Flip(const Vec v, const Vec other) {
    return Vec(Mask(v) ^ (Mask(other) & SignBits()));
  }
  static Vec IfThenElse(const Mask mask, const Vec yes, const Vec no) {
    return Vec((Mask(yes) & mask) | (Mask(no) & ~mask));
  }
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
