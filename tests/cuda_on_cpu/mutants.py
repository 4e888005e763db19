"""Small mistakes in the kernels, which the gtests must notice: what is written, and what instead.

Each text stands exactly once in l1_loss_layer.cu.
"""

from __future__ import annotations

MUTANTS = [
    # the elements
    ("? data[map.index(i)]", "? data[i]"),
    (": Dtype(1);", ": Dtype(0);"),
    ("static_cast<Number>(x[k]) - y[k]", "static_cast<Number>(y[k]) - x[k]"),
    ("size = fabs(difference)", "size = difference"),
    ("kQuantity == kWeightedLoss ? size * w", "kQuantity == kWeightedLoss ? size"),
    ("Number(w != 0)", "Number(1)"),
    ("< 0 ? -w * slope : difference", "< 0 ? -w * slope : 0"),
    ("size < beta ? size : Number(beta)", "size"),
    ("slope = near / beta;", "slope = 1;"),
    ("Number(-0.5)", "Number(-1)"),
    ("> 0 ? w * slope", "> 0 ? w"),
    ("return kept[k] ? v : 0;", "return v;"),
    # sums
    ("block.template at<Number, kQuantity, kSmooth>(3));", "0);"),
    ("double sum = 0;", "Dtype sum = 0;"),
    ("return sum - sum == 0 ? sum :", "return true ? sum :"),
    ("weighted ? Sum<Dtype, kLoss, kWeight, kSmooth>",
     "false ? Sum<Dtype, kLoss, kWeight, kSmooth>"),
    ("return sum_weights ?", "return !sum_weights ?"),
    ("return sum_weights ?", "return false ?"),
    # the inputs
    ("block.kept[k] = i < end;", "block.kept[k] = true;"),
    ("block.x[k] = i < end ?", "block.x[k] = i <= end ?"),
    ("kept[k] && !ignore(y[k])", "kept[k]"),
    # the sum of a block
    ("threadIdx.y * blockDim.x + threadIdx.x;\n  *own", "threadIdx.x;\n  *own"),
    ("    __syncthreads();\n", ""),
    ("own->counted += own[half].counted;", ""),
    ("if (threadIdx.x < half) {", "if (threadIdx.x <= half) {"),
    # parts
    ("const unsigned int row = p / parts.per_row;", "const unsigned int row = p;"),
    ("row * parts.row + p % parts.per_row * parts.part", "row * parts.row"),
    ("min(begin + parts.part, (row + 1) * parts.row)", "begin + parts.part"),
    ("i += kPack * blockDim.x", "i += 2 * kPack * blockDim.x"),
    ("if (counts) { result.counted +=", "if (!counts) { result.counted +="),
    ("means[p] = result.loss * scale;", "means[p] = result.loss;"),
    ("(rows * per_row - 1) / threads.y + 1", "(rows * per_row - 1) / threads.y"),
    # finishing
    ("p += kThreads", "p += 2 * kThreads"),
    ("blockIdx.x * per_row + p]", "p]"),
    ("total.counted : fixed", "total.loss : fixed"),
    ("top[blockIdx.x] = z == 0 ? 0 :", "top[blockIdx.x] ="),
    ("divisor[1] = 1 / z;", "divisor[1] = 1;"),
    # writing
    ("first = blockIdx.x * (kPack * kThreads) + threadIdx.x", "first = threadIdx.x"),
    ("top_diff.Load(first, divisor ? 0 : n, factors)", "top_diff.Load(first, 0, factors)"),
    ("if (z == 0) {", "if (false) {"),
    ("!normal || !(v - v == 0)", "!(v - v == 0)"),
    ("!normal || !(v - v == 0)", "false"),
    ("minus[i] = -v", "minus[i] = v"),
    ("(n - 1) / (kPack * kThreads) + 1", "(n - 1) / (kPack * kThreads)"),
    # launches
    ("1. / row);", "1.);"),
    ("static_cast<double>(top[0]->count()) / count", "1"),
    ("diff[i] = propagate_down[i] ? bottom[i]->mutable_gpu_diff() : NULL",
     "diff[i] = bottom[i]->mutable_gpu_diff()"),
]
