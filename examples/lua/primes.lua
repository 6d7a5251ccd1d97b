-- SPDX-License-Identifier: MIT
local composite, found = {}, {}
for n = 2, 50 do
    if not composite[n] then
        found[#found + 1] = n
        for multiple = n * n, 50, n do
            composite[multiple] = true
        end
    end
end
print(table.concat(found, " "))
