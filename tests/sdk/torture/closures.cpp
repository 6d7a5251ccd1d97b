// SPDX-License-Identifier: MIT
// Lambdas, std::function, pointers to members (virtual ones, too), and what is captured how.
#include <functional>
#include <memory>
#include <vector>
#include "torture.h"

struct Base {
    int value = 10;
    virtual int scaled(int by) { return value * by; }
    int plus(int n) const { return value + n; }
    virtual ~Base() = default;
};
struct Other {
    int padding = 5;
    virtual int unrelated() { return padding; }
    virtual ~Other() = default;
};
struct Derived : Other, Base {
    int extra = 3;
    int scaled(int by) override { return value * by + extra; }
};

static std::function<int(int)> adder(int n) {
    return [n](int x) { return x + n; };
}
static std::function<int()> counter() {
    return [n = 0, step = std::make_shared<int>(2)]() mutable { return n += (*step)++; };
}
static int apply(const std::vector<std::function<int(int)>> &functions, int x) {
    for (auto &function : functions)
        x = function(x);
    return x;
}
template <typename F> static auto compose(F f) { return f; }
template <typename F, typename... G> static auto compose(F f, G... g) {
    return [=](auto x) { return f(compose(g...)(x)); };
}
static int plain(int x) { return x ^ 1; }

int main() {
    int total = 100;
    auto subtract = [&total](int x) { return total -= x; };
    double large[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    auto heavy = [large](int x) { return x + (int)large[x & 7]; }; // beyond std::function's own room
    printf("%d\n", apply({adder(5), plain, heavy, subtract, adder(-1)}, 7));
    auto one = counter(), two = counter();
    for (int i = 0; i < 4; i++)
        printf("%d ", one());
    auto three = one;
    printf("%d ", two()), printf("%d ", three()), printf("%d\n", one());
    printf("%d\n", compose([](int x) { return x * 2; }, [](int x) { return x + 3; }, plain)(10));
    std::function<int(int)> fibonacci = [&](int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); };
    printf("%d %d\n", fibonacci(15), std::function<int()>() == nullptr);
    int (Base::*volatile method)(int) = &Base::scaled;
    int (Base::*constant)(int) const = &Base::plus;
    int Base::*volatile member = &Base::value;
    int (Derived::*derived)(int) = &Derived::scaled;
    int (Derived::*converted)(int) = static_cast<int (Derived::*)(int)>(&Base::scaled);
    int Derived::*moved = static_cast<int Derived::*>(&Base::value);
    int (Other::*unrelated)() = &Other::unrelated;
    Base base;
    Derived object;
    Base *pointers[] = {&base, &object};
    for (Base *p : pointers) {
        p->*member += 7;
        printf("%d %d %d ", (p->*method)(3), (p->*constant)(1), p->*member);
    }
    printf("%d %d %d %d %d\n", (object.*derived)(2), (object.*converted)(2), object.*moved, (object.*unrelated)(),
           derived == converted);
    auto bound = std::bind(&Base::plus, &object, std::placeholders::_1);
    std::function<int(Base &, int)> free_method = &Base::scaled;
    printf("%d %d %d\n", bound(5), free_method(object, 2), std::mem_fn(&Base::value)(base));
    void (*raw)(int &) = [](int &x) { x *= 2; };
    raw(total);
    printf("%d\n", total);
    return 0;
}
