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

constexpr int64_t kBytesPerThread = 64 * 1024;  // waking a thread costs a few microseconds: as much as moving this
constexpr int64_t kRangesPerThread = 8;         // so that an uneven range does not keep the others waiting

int processors() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1u, std::thread::hardware_concurrency());
}

class Team {
   public:
    void run(int count, int64_t items, int64_t range, const std::function<void(int64_t, int64_t)>& body) {
        try {
            while (static_cast<int>(workers_.size()) < count - 1) workers_.emplace_back([this] { work(); });
        } catch (const std::system_error&) {
            // The system has no more threads to give; those there are do the work, or the caller alone.
        }
        {
            std::lock_guard lock(mutex_);
            body_ = &body;
            items_ = items;
            range_ = range;
            next_.store(0, std::memory_order_relaxed);
            wanted_ = count - 1;
            ++generation_;
        }
        wake_.notify_all();
        drain(body, items, range);
        std::unique_lock lock(mutex_);
        wanted_ = 0;  // workers that have not begun find nothing to do
        done_.wait(lock, [this] { return working_ == 0; });
        body_ = nullptr;
    }

   private:
    void drain(const std::function<void(int64_t, int64_t)>& body, int64_t items, int64_t range) {
        for (;;) {
            const int64_t begin = next_.fetch_add(range, std::memory_order_relaxed);
            if (begin >= items) return;
            body(begin, std::min(begin + range, items));
        }
    }

    void work() {
        uint64_t seen = 0;
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return generation_ != seen && wanted_ > 0; });
            seen = generation_;
            --wanted_;
            ++working_;
            const auto* body = body_;
            const int64_t items = items_, range = range_;
            lock.unlock();
            drain(*body, items, range);
            lock.lock();
            if (--working_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> workers_;
    const std::function<void(int64_t, int64_t)>* body_ = nullptr;
    int64_t items_ = 0, range_ = 1;
    std::atomic<int64_t> next_{0};
    uint64_t generation_ = 0;
    int wanted_ = 0, working_ = 0;
};

std::atomic<int> limit{0};

// Never destroyed: a forked child takes new ones, since the threads are not there and the locks may be held, and at exit
// other threads may still be in a kernel.
std::mutex* busy = new std::mutex;
Team* team = nullptr;

void forget_team() {
    busy = new std::mutex;
    team = nullptr;
}

[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, forget_team);

}  // namespace

int threads() {
    const int set = limit.load(std::memory_order_relaxed);
    return set > 0 ? set : processors();
}

void set_threads(int count) { limit.store(count, std::memory_order_relaxed); }

void parallel(int64_t items, int64_t bytes, const std::function<void(int64_t, int64_t)>& body) {
    const int64_t worth = std::min<int64_t>(bytes / kBytesPerThread, items);
    const int count = static_cast<int>(std::min<int64_t>(threads(), worth));
    std::unique_lock lock(*busy, std::defer_lock);
    // Another Python thread's call may be using the team: then this one does its work alone instead of waiting.
    if (count < 2 || !lock.try_lock()) {
        body(0, items);
        return;
    }
    if (!team) team = new Team;
    team->run(count, items, std::max<int64_t>(1, items / (count * kRangesPerThread)), body);
}

}  // namespace unhot
