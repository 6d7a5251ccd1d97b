// SPDX-License-Identifier: MIT
// Moves, copies and destructors counted; unique_ptr, shared_ptr, weak_ptr, optional, variant, any.
#include <any>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>
#include "torture.h"

static int copies, moves, destroyed;
struct Counted {
    int id;
    std::string text;
    explicit Counted(int n) : id(n), text(std::to_string(n) + " in a string that needs the heap") {}
    Counted(const Counted &other) : id(other.id), text(other.text) { copies++; }
    Counted(Counted &&other) noexcept : id(other.id), text(std::move(other.text)) { other.id = -1, moves++; }
    Counted &operator=(const Counted &other) {
        id = other.id, text = other.text, copies++;
        return *this;
    }
    Counted &operator=(Counted &&other) noexcept {
        id = other.id, text = std::move(other.text), other.id = -1, moves++;
        return *this;
    }
    ~Counted() { destroyed++; }
};
struct Node {
    int value;
    std::vector<std::shared_ptr<Node>> children;
    std::weak_ptr<Node> parent;
    ~Node() { printf("~%d ", value); }
};
struct Release {
    void operator()(int *p) const { printf("released %d\n", *p), delete p; }
};
static Counted made(int n) {
    Counted c(n);
    c.id++;
    return c;
}
static const char *describe(const std::variant<int, double, std::string> &v) {
    struct {
        const char *operator()(int) const { return "int"; }
        const char *operator()(double) const { return "double"; }
        const char *operator()(const std::string &s) const { return s.empty() ? "empty" : "string"; }
    } visitor;
    return std::visit(visitor, v);
}

int main() {
    {
        std::vector<Counted> all;
        all.reserve(4);
        for (int i = 0; i < 4; i++)
            all.push_back(made(i));
        Counted a = all[2], b = std::move(all[1]);
        std::swap(a, b);
        all.insert(all.begin(), b);
        a = all[0], b = Counted(77);
        printf("%d %d %s %s\n", a.id, b.id, all[2].text.c_str(), all[4].text.c_str());
    }
    printf("%d destroyed more than %d\n", destroyed > 8, copies > 2);
    printf("%d copies\n", copies);
    auto root = std::make_shared<Node>(Node{1, {}, {}});
    puts("");
    for (int i = 2; i < 5; i++) {
        root->children.push_back(std::shared_ptr<Node>(new Node{i, {}, root}));
        printf("%d ", (int)root.use_count());
    }
    std::weak_ptr<Node> observer = root->children[1];
    printf("%d ", observer.lock()->parent.lock()->value), printf("%d\n", (int)observer.use_count());
    root->children.erase(root->children.begin() + 1);
    printf("%d\n", observer.expired());
    auto kept = root->children[0];
    root.reset();
    printf("%d\n", kept->parent.expired());
    kept.reset();
    puts("");
    std::unique_ptr<int, Release> unique(new int(5));
    auto taken = std::move(unique);
    printf("%d %d\n", !unique, *taken);
    taken.reset(new int(6));
    auto array = std::make_unique<uint16_t[]>(50);
    array[49] = 9;
    printf("%d %d\n", array[0], array[49]);
    std::optional<std::string> maybe;
    printf("%s ", maybe.value_or("nothing").c_str());
    maybe = "something that is long enough for the heap";
    printf("%s %d\n", maybe->c_str(), maybe.has_value());
    std::variant<int, double, std::string> v = 3;
    printf("%s ", describe(v));
    v = 2.5, printf("%s ", describe(v)), v = std::string("text of some length, longer than short"),
    printf("%s %d ", describe(v), (int)v.index());
    v.emplace<2>(), printf("%s %d\n", describe(v), std::get_if<int>(&v) == nullptr);
    return 0;
}
