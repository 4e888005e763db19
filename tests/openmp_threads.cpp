// What GCC's -fopenmp calls, made of threads that ThreadSanitizer sees: it does
// not see into GCC's own libgomp, and takes its barriers for races. As much of
// it as the native layer and its gtests need.

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace {

int max_threads = 3;
thread_local int this_thread = 0;
thread_local struct Team* this_team = nullptr;

// The threads of a parallel region, and the loop that they share.
struct Team {
  int size;
  std::atomic<long> next;     // NOLINT(runtime/int)
  std::atomic<bool> started;
  long end, chunk;            // NOLINT(runtime/int)
};

}  // namespace

extern "C" {

void omp_set_num_threads(int threads) { max_threads = threads; }
int omp_get_max_threads() { return max_threads; }
int omp_get_thread_num() { return this_thread; }
int omp_get_num_threads() { return this_team ? this_team->size : 1; }

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads,
    unsigned) {
  Team* const outer = this_team;
  const int outer_thread = this_thread;
  // A region inside of another has one thread, as in libgomp.
  Team team = {outer ? 1 : static_cast<int>(threads ? threads : max_threads),
      {0}, {false}, 0, 0};
  std::vector<std::thread> others;
  const auto run = [&](const int number) {
    this_team = &team;
    this_thread = number;
    body(data);
  };
  for (int i = 1; i < team.size; ++i) { others.emplace_back(run, i); }
  run(0);
  for (std::thread& other : others) { other.join(); }
  this_team = outer;
  this_thread = outer_thread;
}

bool GOMP_loop_nonmonotonic_dynamic_next(long* begin, long* end) {  // NOLINT
  Team* const team = this_team;
  *begin = team->next.fetch_add(team->chunk);
  *end = std::min(team->end, *begin + team->chunk);
  return *begin < team->end;
}

// Its loops begin at 0, step by 1, and are the only ones of their regions. All
// threads write the same, but only one of them does.
bool GOMP_loop_nonmonotonic_dynamic_start(long, long end, long,  // NOLINT
    long chunk, long* from, long* to) {  // NOLINT(runtime/int)
  Team* const team = this_team;
  static std::atomic_flag busy = ATOMIC_FLAG_INIT;
  while (busy.test_and_set()) {}
  if (!team->started.load()) {
    team->end = end;
    team->chunk = chunk;
    team->started.store(true);
  }
  busy.clear();
  return GOMP_loop_nonmonotonic_dynamic_next(from, to);
}

void GOMP_loop_end_nowait() {}

}  // extern "C"
