"""What SD 1.5's UNet waits for weights that come over a link, by a simulation of its own: what the planner's
choice of a layout is held against (crates/models/tests/auto_layout.rs).

    python tools/reference/streaming_step.py

Each row: the part of the model elsewhere, the window, and the waits with `distorch2` and `interleave`, in parts
of a step that never waits, over that of five links with which they differ most.
"""

READING = 96
CONTEXT = 77


def unet(side, rows, model=320, mult=(1, 2, 4, 4), context=768):
    """Layers in the order of use: bytes in f16 and cost."""
    layers = []
    grid = lambda level: rows * (-(-side // (8 << level))) ** 2

    def weights(values, bias, positions, more=0):
        layers.append((2 * (values + bias), values * positions + more + READING * (values + bias)))

    def norm(channels, positions):
        layers.append((4 * channels, READING * channels * positions))

    def residual(inputs, outputs, at):
        norm(inputs, at)
        weights(9 * inputs * outputs, outputs, at)
        weights(4 * model * outputs, outputs, rows)
        norm(outputs, at)
        weights(9 * outputs * outputs, outputs, at)
        if inputs != outputs:
            weights(inputs * outputs, outputs, at)

    def attention(c, width, at, attended, tokens):
        weights(c * c, 0, at)
        weights(c * width, 0, tokens)
        weights(c * width, 0, tokens, 2 * at * attended * c)
        weights(c * c, c, at)

    def transformer(c, at):
        norm(c, at)
        weights(c * c, c, at)
        norm(c, at)
        attention(c, c, at, at // rows, at)
        norm(c, at)
        attention(c, context, at, CONTEXT, CONTEXT * rows)
        norm(c, at)
        weights(8 * c * c, 8 * c, at)
        weights(4 * c * c, c, at)
        weights(c * c, c, at)

    weights(4 * model * model, 4 * model, rows)
    weights(16 * model * model, 4 * model, rows)
    weights(9 * 4 * model, model, grid(0))
    channels, skips, last = model, [model], len(mult) - 1
    for level, m in enumerate(mult):
        if level > 0:
            weights(9 * channels * channels, channels, grid(level))
            skips.append(channels)
        for _ in range(2):
            residual(channels, m * model, grid(level))
            channels = m * model
            if level < last:
                transformer(channels, grid(level))
            skips.append(channels)
    residual(channels, channels, grid(last))
    transformer(channels, grid(last))
    residual(channels, channels, grid(last))
    for level in reversed(range(len(mult))):
        for at in range(3):
            residual(channels + skips.pop(), mult[level] * model, grid(level))
            channels = mult[level] * model
            if level < last:
                transformer(channels, grid(level))
        if level > 0:
            weights(9 * channels * channels, channels, grid(level - 1))
    norm(model, grid(0))
    weights(9 * 4 * model, 4, grid(0))
    return layers


def tiny(sizes):
    return [size * 10000 < sum(sizes) for size in sizes]


def from_the_tail(sizes, share):
    stay = tiny(sizes)
    room = sum(sizes) * (100 - share) // 100 - sum(s for s, t in zip(sizes, stay) if t)
    leaves = [False] * len(sizes)
    for at in reversed(range(len(sizes))):
        if not stay[at]:
            leaves[at] = sizes[at] > room
            room -= 0 if leaves[at] else sizes[at]
    return leaves


def spread(sizes, share):
    stay = tiny(sizes)
    pinned = sum(s for s, t in zip(sizes, stay) if t)
    movable = sum(sizes) - pinned
    here = max(0, sum(sizes) * (100 - share) // 100 - pinned)
    shares = [here, movable - here]
    filled, passed, leaves = [0, 0], 0, [False] * len(sizes)
    for at, size in enumerate(sizes):
        if stay[at]:
            continue
        passed += size
        fits = [d for d in (0, 1) if shares[d] - filled[d] >= size]
        if fits:
            device = max(fits, key=lambda d: passed * shares[d] // movable - filled[d])
            filled[device] += size
            leaves[at] = device == 1
    return leaves


def step(layers, leaves, window, bandwidth, steps=12):
    """Seconds of a step, where a cost is a second: what may start starts, then the next thing ends."""
    count, now, ends = sum(leaves), 0.0, []
    sizes = [size for (size, _), leaves in zip(layers, leaves) if leaves]
    used = asked = arrived = left = place = done = 0
    link_ends = use_ends = None
    while len(ends) < steps:
        if link_ends is None and count and asked - left < count and used + sizes[asked % count] <= window:
            used += sizes[asked % count]
            asked += 1
            link_ends = now + sizes[(asked - 1) % count] / bandwidth
        if use_ends is None and (not leaves[place] or arrived > done):
            use_ends = now + layers[place][1]
        now = min(end for end in (link_ends, use_ends) if end is not None)
        if link_ends == now:
            link_ends = None
            arrived += 1
        if use_ends == now:
            use_ends = None
            if leaves[place]:
                used -= sizes[done % count]
                done += 1
                left += 1
            place += 1
            if place == len(layers):
                place = 0
                ends.append(now)
    return ends[-1] - ends[-2]


def compare(layers, share, window):
    sizes = [size for size, _ in layers]
    computing = sum(cost for _, cost in layers)
    placements = [from_the_tail(sizes, share), spread(sizes, share)]
    moved = [sum(s for s, l in zip(sizes, leaves) if l) for leaves in placements]
    rows = []
    for balance in (0.5, 0.75, 1.0, 1.5, 2.0):
        bandwidth = moved[0] / (computing * balance)
        times = [step(layers, leaves, window, bandwidth) for leaves in placements]
        waits = [t / max(computing, m / bandwidth) - 1 for t, m in zip(times, moved)]
        rows.append((max(times) / min(times), *waits))
    _, familiar, interleaved = max(rows)
    return familiar, interleaved


if __name__ == "__main__":
    for share in (50, 75):
        for window in (128, 256, 512):
            layers = unet(side=256, rows=2)
            waits = compare(layers, share, window << 20)
            print(share, window, *(f"{wait:.3f}" for wait in waits))
    print("256 MiB, steps in parts of those that never wait, by the time of moving all of the model:")
    layers = unet(side=256, rows=2)
    sizes, computing = [size for size, _ in layers], sum(cost for _, cost in layers)
    for share in (50, 75):
        for balance in (0.5, 1, 2, 4):
            bandwidth = sum(sizes) / (computing * balance)
            ratios = []
            for leaves in (from_the_tail(sizes, share), spread(sizes, share)):
                moved = sum(s for s, l in zip(sizes, leaves) if l)
                ratios.append(step(layers, leaves, 256 << 20, bandwidth) / max(computing, moved / bandwidth))
            print(share, balance, *(f"{ratio:.3f}" for ratio in ratios))
