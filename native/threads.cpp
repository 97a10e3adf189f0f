#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace unhot {

namespace {

using Body = std::function<void(int64_t, int64_t)>;

constexpr int64_t kBytesPerThread = 64 * 1024;  // waking a thread costs a few microseconds: as much as moving this
constexpr int64_t kRangesPerThread = 8;         // so that an uneven range does not keep the others waiting

int processors() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1u, std::thread::hardware_concurrency());
}

// What the threads that work together share: each takes the next range until there is none.
struct Ranges {
    const Body* body;
    int64_t items, size;
    std::atomic<int64_t> next{0};

    void work() {
        for (;;) {
            const int64_t begin = next.fetch_add(size, std::memory_order_relaxed);
            if (begin >= items) return;
            (*body)(begin, std::min(begin + size, items));
        }
    }
};

class Team {
   public:
    void run(int count, Ranges& ranges) {
        try {
            while (static_cast<int>(workers_.size()) < count - 1) workers_.emplace_back([this] { work(); });
        } catch (const std::system_error&) {
            // The system has no more threads to give; those there are do the work, or the caller alone.
        }
        {
            std::lock_guard lock(mutex_);
            ranges_ = &ranges;
            wanted_ = count - 1;
            ++generation_;
        }
        wake_.notify_all();
        ranges.work();
        std::unique_lock lock(mutex_);
        wanted_ = 0;  // workers that have not begun find nothing to do
        done_.wait(lock, [this] { return working_ == 0; });
        ranges_ = nullptr;
    }

   private:
    void work() {
        uint64_t seen = 0;
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return generation_ != seen && wanted_ > 0; });
            seen = generation_;
            --wanted_;
            ++working_;
            Ranges* ranges = ranges_;
            lock.unlock();
            ranges->work();
            lock.lock();
            if (--working_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> workers_;
    Ranges* ranges_ = nullptr;
    uint64_t generation_ = 0;
    int wanted_ = 0, working_ = 0;
};

std::atomic<int> limit{0};

// Never destroyed: a forked child takes new ones, since the threads are not there and the locks may be held, and at exit
// other threads may still be in a kernel.
std::mutex* busy = new std::mutex;
Team* team = nullptr;

// Between two of its regions, an OpenMP team waits for the next one at full speed for some milliseconds. Threads of our own
// would compete with it for the processors, and be woken up where the others are awake.
thread_local Region openmp = nullptr;

struct Part {
    Ranges* ranges;
    std::atomic<int> places;  // for as many threads as are to work; the team may have more
};

void take_part(void* data) {
    Part& part = *static_cast<Part*>(data);
    if (part.places.fetch_sub(1, std::memory_order_relaxed) > 0) part.ranges->work();
}

void forget_team() {
    busy = new std::mutex;
    team = nullptr;
    openmp = nullptr;  // whose threads are not there either
}

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, forget_team);

}  // namespace

int threads() {
    const int set = limit.load(std::memory_order_relaxed);
    return set > 0 ? set : processors();
}

void join_openmp(Region region) { openmp = region; }

void set_threads(int count) { limit.store(count, std::memory_order_relaxed); }

void parallel(int64_t items, int64_t bytes, const Body& body) {
    const int64_t worth = std::min<int64_t>(bytes / kBytesPerThread, items);
    const int count = static_cast<int>(std::min<int64_t>(threads(), worth));
    Ranges ranges{&body, items, std::max<int64_t>(1, items / (std::max(count, 1) * kRangesPerThread))};
    if (count >= 2 && openmp) {
        Part part{&ranges, count};
        openmp(take_part, &part, 0, 0);
        return;
    }
    std::unique_lock lock(*busy, std::defer_lock);
    // Another Python thread's call may be using the team: then this one does its work alone instead of waiting.
    if (count < 2 || !lock.try_lock()) {
        body(0, items);
        return;
    }
    if (!team) team = new Team;
    team->run(count, ranges);
}

}  // namespace unhot
