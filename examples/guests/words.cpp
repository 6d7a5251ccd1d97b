// SPDX-License-Identifier: MIT
// A guest in C++ with state: the host feeds it text, it counts words. No exceptions, no run-time type information.
//
//     pvm build words.cpp -o words.polkavm
//     pvm run words.polkavm demo --import report=0
#include <pvm.h>

#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <vector>

// word and its length, how often
PVM_IMPORT(void, report, const char *, uint32_t, uint32_t);

PVM_EXPORT(void, feed, const char *, uint32_t);
PVM_EXPORT(uint32_t, report_most_frequent, uint32_t);
PVM_EXPORT(uint32_t, demo);

static std::map<std::string, uint32_t> counts; // made before the first call of any export

void feed(const char *text, uint32_t length) {
    std::string_view rest(text, length);
    while (!rest.empty()) {
        auto end = std::min(rest.find_first_of(" \n"), rest.size());
        if (end > 0)
            counts[std::string(rest.substr(0, end))]++;
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
}

uint32_t report_most_frequent(uint32_t most) {
    std::vector<std::pair<std::string_view, uint32_t>> all(counts.begin(), counts.end());
    std::stable_sort(all.begin(), all.end(), [](auto &left, auto &right) { return left.second > right.second; });
    if (all.size() > most)
        all.resize(most);
    for (auto &[word, count] : all)
        report(word.data(), static_cast<uint32_t>(word.size()), count);
    return static_cast<uint32_t>(all.size());
}

uint32_t demo() {
    constexpr std::string_view text = "the quick brown fox jumps over the lazy dog and the fox laughs";
    feed(text.data(), text.size());
    return report_most_frequent(3);
}
