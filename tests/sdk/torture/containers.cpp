// SPDX-License-Identifier: MIT
// The standard library's containers and algorithms.
#include <algorithm>
#include <deque>
#include <list>
#include <map>
#include <numeric>
#include <queue>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>
#include "torture.h"

using namespace std::literals;

int main() {
    std::vector<int> numbers(500);
    std::iota(numbers.begin(), numbers.end(), -100);
    for (auto &n : numbers)
        n = n * 7919 % 1009;
    std::sort(numbers.begin(), numbers.end());
    printf("%d %d\n", numbers.front(), numbers.back());
    std::stable_sort(numbers.begin(), numbers.end(), [](int a, int b) { return a % 10 < b % 10; });
    for (int n : numbers)
        feed((uint64_t)n);
    numbers.erase(std::remove_if(numbers.begin(), numbers.end(), [](int n) { return n % 3 == 0; }), numbers.end());
    std::nth_element(numbers.begin(), numbers.begin() + 50, numbers.end());
    printf("%d %d %d\n", (int)numbers.size(), numbers[50], std::accumulate(numbers.begin(), numbers.end(), 0));
    tell("vector");
    std::map<std::string, int> words;
    std::string text = "the cat and the dog and the bird; a longer word than fits inside: incomprehensibilities";
    for (size_t at = 0; at < text.size();) {
        size_t end = std::min(text.find_first_of(" ;:", at), text.size());
        words[text.substr(at, end - at)]++;
        at = end + 1;
    }
    for (auto &[word, count] : words)
        printf("%s=%d ", word.c_str(), count);
    puts("");
    std::unordered_map<uint32_t, std::vector<uint32_t>> groups;
    for (int i = 0; i < 1000; i++)
        groups[(uint32_t)next_random() % 97].push_back((uint32_t)i);
    uint64_t mixed = 0;
    for (auto &[key, members] : groups) /* in an order of each library's own */
        mixed += key * members.size() + std::accumulate(members.begin(), members.end(), 0u);
    printf("%d %" PRIu64 "\n", (int)groups.size(), mixed);
    std::set<int> evens;
    std::multiset<char> letters(text.begin(), text.end());
    for (int i = 0; i < 100; i += 2)
        evens.insert(i * 37 % 100);
    printf("%d %d %d %d\n", (int)evens.size(), *evens.lower_bound(51), (int)letters.count('n'), evens.contains(52));
    std::deque<int> both;
    std::list<int> linked;
    for (int i = 0; i < 200; i++)
        i & 1 ? both.push_back(i) : both.push_front(i), linked.insert(linked.begin(), i * i % 31);
    both.erase(both.begin() + 20, both.begin() + 100);
    linked.sort(), linked.unique(), linked.reverse();
    for (int n : linked)
        printf("%d ", n);
    printf("%d %d %d\n", both[0], both[50], (int)both.size());
    std::priority_queue<std::pair<int, char>> queue;
    for (char c : "priority"s)
        queue.emplace(c * 7 % 11, c);
    for (; !queue.empty(); queue.pop())
        printf("%c", queue.top().second);
    puts("");
    std::string s = "short";
    s += " and then it gets longer than any small string"sv;
    s.insert(5, 3, '-').replace(0, 2, "SH"), s.erase(s.find("any"), 4);
    printf("%s %d %d\n", s.c_str(), (int)s.rfind("then"), s.compare("SH") > 0);
    std::vector<std::vector<std::string>> nested(3, std::vector<std::string>(2, "x"));
    nested[1].emplace_back("a string that lives on the heap, for sure");
    auto copy = nested;
    nested.clear();
    printf("%d %s %s\n", (int)copy[1].size(), copy[1][2].c_str(), std::to_string(-12345).c_str());
    std::vector<bool> sieve(1000, true);
    for (size_t i = 2; i * i < 1000; i++)
        for (size_t k = i * i; sieve[i] && k < 1000; k += i)
            sieve[k] = false;
    printf("%d\n", (int)std::count(sieve.begin() + 2, sieve.end(), true));
    int permutation[] = {1, 2, 3, 4}, count = 0;
    do
        count += permutation[0] < permutation[3];
    while (std::next_permutation(permutation, permutation + 4));
    printf("%d\n", count);
    return 0;
}
