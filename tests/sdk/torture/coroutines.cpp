// SPDX-License-Identifier: MIT
// Coroutines: frames on the heap, resumed through pointers; generators, and tasks that await each other.
#include <coroutine>
#include <deque>
#include <utility>
#include "torture.h"

template <typename T> struct Generator {
    struct promise_type {
        T current{};
        Generator get_return_object() { return Generator{std::coroutine_handle<promise_type>::from_promise(*this)}; }
        std::suspend_always initial_suspend() noexcept { return {}; }
        std::suspend_always final_suspend() noexcept { return {}; }
        std::suspend_always yield_value(T value) {
            current = value;
            return {};
        }
        void return_void() {}
        void unhandled_exception() {}
    };
    std::coroutine_handle<promise_type> handle;
    explicit Generator(std::coroutine_handle<promise_type> h) : handle(h) {}
    Generator(Generator &&other) : handle(std::exchange(other.handle, nullptr)) {}
    ~Generator() {
        if (handle)
            handle.destroy();
    }
    bool next() {
        handle.resume();
        return !handle.done();
    }
    T value() const { return handle.promise().current; }
};
static Generator<uint64_t> fibonacci(int count) {
    uint64_t a = 0, b = 1;
    for (int i = 0; i < count; i++) {
        co_yield a;
        b += std::exchange(a, b);
    }
}
struct Tree {
    int value;
    Tree *left, *right;
};
static Generator<int> walk(const Tree *tree) {
    if (!tree)
        co_return;
    for (auto left = walk(tree->left); left.next();)
        co_yield left.value();
    co_yield tree->value;
    for (auto right = walk(tree->right); right.next();)
        co_yield right.value();
}

static std::deque<std::coroutine_handle<>> ready;
struct Task {
    struct promise_type {
        int result = 0;
        std::coroutine_handle<> waiting;
        Task get_return_object() { return Task{std::coroutine_handle<promise_type>::from_promise(*this)}; }
        std::suspend_never initial_suspend() noexcept { return {}; }
        auto final_suspend() noexcept {
            struct Continue {
                bool await_ready() noexcept { return false; }
                void await_suspend(std::coroutine_handle<promise_type> h) noexcept {
                    if (h.promise().waiting)
                        ready.push_back(h.promise().waiting);
                }
                void await_resume() noexcept {}
            };
            return Continue{};
        }
        void return_value(int value) { result = value; }
        void unhandled_exception() {}
    };
    std::coroutine_handle<promise_type> handle;
    explicit Task(std::coroutine_handle<promise_type> h) : handle(h) {}
    Task(Task &&other) : handle(std::exchange(other.handle, nullptr)) {}
    ~Task() {
        if (handle)
            handle.destroy();
    }
    bool await_ready() const { return handle.done(); }
    void await_suspend(std::coroutine_handle<> h) { handle.promise().waiting = h; }
    int await_resume() const { return handle.promise().result; }
};
struct Yield {
    bool await_ready() { return false; }
    void await_suspend(std::coroutine_handle<> h) { ready.push_back(h); }
    void await_resume() {}
};
static Task work(int id, int rounds) {
    for (int i = 0; i < rounds; i++) {
        printf("%d.%d ", id, i);
        co_await Yield{};
    }
    co_return id *rounds;
}
static Task all() {
    Task a = work(1, 3), b = work(2, 1), c = work(3, 4);
    int sum = co_await a;
    sum += co_await b;
    sum += co_await c;
    co_return sum;
}

int main() {
    for (auto numbers = fibonacci(60); numbers.next();)
        feed(numbers.value());
    tell("fibonacci");
    Tree leaves[] = {{1, nullptr, nullptr}, {3, nullptr, nullptr}, {5, nullptr, nullptr}},
         two{2, &leaves[0], &leaves[1]}, root{4, &two, &leaves[2]};
    for (auto values = walk(&root); values.next();)
        printf("%d ", values.value());
    puts("");
    Task task = all();
    while (!ready.empty()) {
        auto handle = ready.front();
        ready.pop_front();
        handle.resume();
    }
    printf("= %d\n", task.await_resume());
    return 0;
}
