// Compiled without sanitizers, even where the kernels are compiled with them.
#include "cuda_on_cpu.hpp"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

extern "C" {
// ThreadSanitizer, which finds the races of a kernel, if it is linked.
#pragma weak __tsan_create_fiber
#pragma weak __tsan_get_current_fiber
#pragma weak __tsan_switch_to_fiber
#pragma weak __tsan_acquire
#pragma weak __tsan_release
void* __tsan_create_fiber(unsigned flags);
void* __tsan_get_current_fiber();
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
// All variables that are __shared__.
#pragma weak __start_cuda_shared
#pragma weak __stop_cuda_shared
extern char __start_cuda_shared[], __stop_cuda_shared[];
}

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_on_cpu {

const int kGarbage = 0xff;  // NaN in float and in double
const size_t kPage = 4096;
const size_t kStack = 16 * kPage;

static void Die(const std::string& what) {
  fprintf(stderr, "CUDA on the CPU: %s\n", what.c_str());
  abort();
}

// ---- Orders -----------------------------------------------------------------

// Of blocks, and of the threads of a block between two barriers.
static std::string Setting(const char* name, const char* otherwise) {
  return getenv(name) ? getenv(name) : otherwise;
}
static const std::string order = Setting("CUDA_ON_CPU_ORDER", "forward");
static std::mt19937 generator(stoul(Setting("CUDA_ON_CPU_SEED", "1")));

static std::vector<size_t> Ordered(const size_t n) {
  std::vector<size_t> list(n);
  std::iota(list.begin(), list.end(), 0);
  if (order == "reverse") { std::reverse(list.begin(), list.end()); }
  if (order == "random") { std::shuffle(list.begin(), list.end(), generator); }
  return list;
}

static uint3 Coordinates(const size_t i, const dim3& size) {
  return {unsigned(i % size.x), unsigned(i / size.x % size.y),
      unsigned(i / size.x / size.y)};
}

// ---- Device memory ----------------------------------------------------------

// It ends at a page that nobody may touch, and begins at one of its own.
struct Mapping { char* begin; size_t size; };
static std::map<void*, Mapping> memory;

static void Protect(const Mapping& mapping, const bool out_of_reach) {
  mprotect(mapping.begin, mapping.size,
      out_of_reach ? PROT_NONE : PROT_READ | PROT_WRITE);
}

// Kernels may touch all of it while one of these lives, copies what they name.
struct Access {
  std::vector<Mapping> touched;
  Access() {
    for (const auto& m : memory) { touched.push_back(m.second); }
    for (const Mapping& m : touched) { Protect(m, false); }
  }
  Access(const void* a, const void* b) {
    for (const void* p : {a, b}) {
      const auto m = memory.find(const_cast<void*>(p));
      if (m != memory.end()) { touched.push_back(m->second); }
    }
    for (const Mapping& m : touched) { Protect(m, false); }
  }
  ~Access() {
    for (const Mapping& m : touched) { Protect(m, true); }
  }
};

static void* Map(const size_t size) {
  void* const pages = mmap(NULL, size, PROT_READ | PROT_WRITE,
      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) { Die("no memory"); }
  return pages;
}

// ---- Threads ----------------------------------------------------------------

// Jumps of the compiler's own: they make no system call, as contexts do, and
// ThreadSanitizer does not look into them.
struct Fiber {
  void* jump[5];
  ucontext_t context;  // from which it starts, if it has not
  bool started;
  void* tsan;
  const char* file;  // where its thread waits, or NULL if that has ended
  int line;
  int waits;

  std::string where() const {
    return std::string(file) + ":" + std::to_string(line);
  }
};

static Fiber scheduler;
static Fiber* running;
static std::vector<Fiber*> fibers;
static const std::function<void()>* body;
static char begin, end, barrier[2];  // what ThreadSanitizer knows them by

static void Acquire(char* what) {
  if (__tsan_acquire) { __tsan_acquire(what); }
}
static void Release(char* what) {
  if (__tsan_release) { __tsan_release(what); }
}

__attribute__((noinline)) static void Continue(Fiber* fiber) {
  if (fiber->started) { __builtin_longjmp(fiber->jump, 1); }
  fiber->started = true;
  setcontext(&fiber->context);
}

__attribute__((noinline)) static void Switch(Fiber* from, Fiber* to) {
  const unsigned without_order = 1;
  if (to->tsan) { __tsan_switch_to_fiber(to->tsan, without_order); }
  running = to;
  if (!__builtin_setjmp(from->jump)) { Continue(to); }
}

static void Work() {
  for (;;) {
    Acquire(&begin);
    (*body)();
    Release(&end);
    running->file = NULL;
    Switch(running, &scheduler);
  }
}

static Fiber* NewFiber() {
  Fiber* const fiber = new Fiber();
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = Map(kStack);
  // They begin at different places of a page: else all meet in the same lines
  // of the cache.
  fiber->context.uc_stack.ss_size = kStack - 192 * (fibers.size() % 64);
  makecontext(&fiber->context, Work, 0);
  if (__tsan_create_fiber) { fiber->tsan = __tsan_create_fiber(0); }
  return fiber;
}

// Each thread of the block, until it waits or ends; returns whether any waits.
static bool RunToBarrier(const size_t threads) {
  bool waiting = false;
  for (const size_t t : Ordered(threads)) {
    threadIdx = Coordinates(t, blockDim);
    Switch(&scheduler, fibers[t]);
    waiting = waiting || fibers[t]->file;
  }
  return waiting;
}

// All threads of a block must wait at the same barrier.
static void CheckBarrier(const size_t threads) {
  const Fiber* waits = fibers[0];
  for (size_t t = 1; t < threads && !waits->file; ++t) { waits = fibers[t]; }
  for (size_t t = 0; t < threads; ++t) {
    const Fiber* const other = fibers[t];
    if (!other->file) {
      Die("some threads of a block wait at " + waits->where()
          + ", others have ended");
    }
    if (other->line != waits->line || strcmp(other->file, waits->file) != 0) {
      Die("some threads of a block wait at " + waits->where() + ", others at "
          + other->where());
    }
  }
}

static void RunBlock(const size_t threads) {
  memset(__start_cuda_shared, kGarbage,
      __stop_cuda_shared - __start_cuda_shared);
  for (size_t t = 0; t < threads; ++t) { fibers[t]->waits = 0; }
  Release(&begin);
  while (RunToBarrier(threads)) { CheckBarrier(threads); }
  Acquire(&end);
}

void Wait(const char* file, const int line) {
  running->file = file;
  running->line = line;
  // Who waits once more must not meet who still leaves this barrier.
  char* const here = &barrier[running->waits++ % 2];
  Release(here);
  Switch(running, &scheduler);
  Acquire(here);
}

void Run(const dim3 grid, const dim3 block,
    const std::function<void()>& thread) {
  const size_t blocks = size_t(grid.x) * grid.y * grid.z;
  const size_t threads = size_t(block.x) * block.y * block.z;
  if (blocks == 0 || threads == 0 || threads > 1024) {
    Die("a kernel is launched with " + std::to_string(blocks) + " blocks of "
        + std::to_string(threads) + " threads");
  }
  while (fibers.size() < threads) { fibers.push_back(NewFiber()); }
  if (__tsan_get_current_fiber) { scheduler.tsan = __tsan_get_current_fiber(); }
  scheduler.started = true;
  const Access access;
  gridDim = grid;
  blockDim = block;
  body = &thread;
  for (const size_t b : Ordered(blocks)) {
    blockIdx = Coordinates(b, grid);
    RunBlock(threads);
  }
}

}  // namespace cuda_on_cpu

// ---- The runtime ------------------------------------------------------------

using cuda_on_cpu::Access;
using cuda_on_cpu::kGarbage;
using cuda_on_cpu::kPage;
using cuda_on_cpu::memory;

cudaError_t cudaMalloc(void** pointer, const size_t size) {
  const size_t whole = (size + kPage - 1) / kPage * kPage;
  char* const begin = static_cast<char*>(cuda_on_cpu::Map(whole + kPage));
  memset(begin, kGarbage, whole);
  mprotect(begin, whole + kPage, PROT_NONE);
  *pointer = begin + whole - size;
  memory[*pointer] = {begin, whole};
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  if (!pointer) { return cudaSuccess; }
  if (!memory.count(pointer)) { return cudaErrorInvalidValue; }
  munmap(memory[pointer].begin, memory[pointer].size + kPage);
  memory.erase(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, const size_t size,
    cudaMemcpyKind) {
  const Access access(to, from);
  memcpy(to, from, size);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* to, const int byte, const size_t size) {
  const Access access(to, to);
  memset(to, byte, size);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, const size_t size) {
  *pointer = malloc(size);
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* pointer) {
  free(pointer);
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = cudaDeviceProp();
  properties->name = "the CPU";
  return cudaSuccess;
}
