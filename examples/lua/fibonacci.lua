-- SPDX-License-Identifier: MIT
local function fibonacci(n)
    return n < 2 and n or fibonacci(n - 1) + fibonacci(n - 2)
end

for n = 5, 25, 5 do
    print(n, fibonacci(n))
end
