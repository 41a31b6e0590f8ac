// A pool of threads that sleep until there is work. Not OpenMP: its runtime beside torch's own would be a second pool that
// spins, and not every compiler has it.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>
#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace {

class Pool {
  public:
    // Calls work(0) ... work(parts - 1), the first on the calling thread, and waits for all of them.
    void run(int64_t parts, const std::function<void(int64_t)> &work) {
        std::unique_lock<std::mutex> one_at_a_time(busy, std::try_to_lock);
        if (!one_at_a_time.owns_lock()) {  // another caller has the threads: better alone than waiting
            for (int64_t part = 0; part < parts; ++part) work(part);
            return;
        }
        {
            std::lock_guard<std::mutex> lock(state);
            while (int64_t(threads.size()) < parts - 1) threads.emplace_back([this] { serve(); });
            current = &work;
            next = 1;
            last = parts;
            open = parts - 1;
            ++round;
        }
        wake.notify_all();
        work(0);
        for (int64_t part; (part = take()) >= 0;) {
            work(part);
            finish();
        }
        std::unique_lock<std::mutex> lock(state);
        done.wait(lock, [this] { return open == 0; });
        current = nullptr;
    }

    ~Pool() {
        {
            std::lock_guard<std::mutex> lock(state);
            stopping = true;
        }
        wake.notify_all();
        for (std::thread &thread : threads) thread.join();
    }

  private:
    int64_t take() {
        std::lock_guard<std::mutex> lock(state);
        return current && next < last ? next++ : -1;
    }

    void finish() {
        std::lock_guard<std::mutex> lock(state);
        if (--open == 0) done.notify_one();
    }

    void serve() {
        int64_t seen = 0;
        while (true) {
            {
                std::unique_lock<std::mutex> lock(state);
                wake.wait(lock, [&] { return stopping || round != seen; });
                if (stopping) return;
                seen = round;
            }
            for (int64_t part; (part = take()) >= 0;) {
                (*current)(part);
                finish();
            }
        }
    }

    std::mutex busy, state;
    std::condition_variable wake, done;
    std::vector<std::thread> threads;
    const std::function<void(int64_t)> *current = nullptr;
    int64_t next = 0, last = 0, open = 0, round = 0;
    bool stopping = false;
};

// The pool of this process. A forked child has none of its parent's threads and gets a new pool; the old one is left
// alone, as its threads cannot be joined there. It is never destroyed: threads must not be joined while a process ends.
inline Pool &pool() {
    static std::mutex lock;
    static Pool *current = nullptr;
#if defined(_WIN32)
    std::lock_guard<std::mutex> guard(lock);
    if (!current) current = new Pool;
#else
    static pid_t owner = 0;
    std::lock_guard<std::mutex> guard(lock);
    if (!current || owner != getpid()) {
        current = new Pool;
        owner = getpid();
    }
#endif
    return *current;
}

inline void share_out(int64_t parts, const std::function<void(int64_t)> &work) {
    if (parts == 1) return work(0);
    pool().run(parts, work);
}

}  // namespace
