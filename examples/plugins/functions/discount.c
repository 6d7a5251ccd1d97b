/* SPDX-License-Identifier: MIT */
/* The price in cents of so many pieces of an article, whose price the server knows, for a customer since so many years. */
#include "plugin.h"

int64_t plugin(int64_t article, int64_t pieces, int64_t years) {
    int64_t price = lookup((uint32_t)article) * pieces;
    int64_t percent = (pieces >= 100 ? 10 : pieces >= 10 ? 5 : 0) + (years > 5 ? 5 : years);
    return price - price * percent / 100;
}
