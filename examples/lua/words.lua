-- SPDX-License-Identifier: MIT
-- Counts the words of a file, and prints the most frequent ones.
local name = assert(arg[1], "usage: words.lua FILE")
local file = assert(io.open(name))
local counts, words = {}, {}
for line in file:lines() do
    for word in line:lower():gmatch("%a%a%a+") do
        if not counts[word] then
            counts[word] = 0
            words[#words + 1] = word
        end
        counts[word] = counts[word] + 1
    end
end
file:close()
table.sort(words, function(a, b)
    if counts[a] ~= counts[b] then return counts[a] > counts[b] end
    return a < b
end)
for i = 1, math.min(5, #words) do
    print(string.format("%3d %s", counts[words[i]], words[i]))
end
