// From the network's small soft mask to a matte at full size: guided filters (He, Sun, Tang, ECCV 2010) that get finer,
// as segmentarium.matting does it, here on the grey picture and on plain arrays.

const STAGES = [5.6, 3.4, 1.7]; // radii in pixels of the network's mask
const EPSILON = 1e-4;
const SURE = 0.02; // probability of the person below which a pixel is the background's

// Mean over windows of (2 radius + 1)^2 pixels, cut off at the border.
export function box(plane, width, height, radius) {
  const result = new Float32Array(plane.length);
  const sums = new Float64Array(width); // of the window's rows, a column each
  let rows = 0;
  const add = (y, sign) => {
    const start = y * width;
    for (let x = 0; x < width; x++) sums[x] += sign * plane[start + x];
    rows += sign;
  };
  for (let y = 0; y < Math.min(radius, height); y++) add(y, 1);
  for (let y = 0; y < height; y++) {
    if (y + radius < height) add(y + radius, 1);
    if (y - radius > 0) add(y - radius - 1, -1);
    let sum = 0;
    let count = 0;
    for (; count < Math.min(radius, width); count++) sum += sums[count];
    for (let x = 0; x < width; x++) {
      if (x + radius < width) { sum += sums[x + radius]; count++; }
      if (x - radius > 0) { sum -= sums[x - radius - 1]; count--; }
      result[y * width + x] = sum / (count * rows);
    }
  }
  return result;
}

function combine(count, value) {
  const result = new Float32Array(count);
  for (let i = 0; i < count; i++) result[i] = value(i);
  return result;
}

// 1 in holes in the person in which the network is nowhere sure of the background, as segmentarium.matting.cutout does it.
export function withoutHoles(probability, width, height) {
  const seen = new Uint8Array(probability.length);
  for (let start = 0; start < probability.length; start++) {
    if (seen[start] || probability[start] >= 0.5) continue;
    const region = [start];
    let [lowest, open] = [1, false];
    seen[start] = 1;
    for (let next = 0; next < region.length; next++) {
      const [x, y] = [region[next] % width, Math.floor(region[next] / width)];
      lowest = Math.min(lowest, probability[region[next]]);
      open ||= x === 0 || y === 0 || x === width - 1 || y === height - 1;
      for (let v = Math.max(0, y - 1); v <= Math.min(height - 1, y + 1); v++) {
        for (let u = Math.max(0, x - 1); u <= Math.min(width - 1, x + 1); u++) {
          const i = v * width + u;
          if (!seen[i] && probability[i] < 0.5) { seen[i] = 1; region.push(i); }
        }
      }
    }
    if (!open && lowest > SURE) for (const i of region) probability[i] = 1;
  }
  return probability;
}

const stretch = (value, low, high) => Math.min(1, Math.max(0, (value - low) / (high - low)));

// Bilinear, with the pixels' centres where they belong.
export function resize(plane, width, height, wide, tall) {
  const result = new Float32Array(wide * tall);
  const columns = Array.from({ length: wide }, (_, x) => sampling(x, width, wide));
  for (let y = 0; y < tall; y++) {
    const [upper, lower, down] = sampling(y, height, tall);
    for (let x = 0; x < wide; x++) {
      const [left, right, over] = columns[x];
      const top = plane[upper * width + left] * (1 - over) + plane[upper * width + right] * over;
      const bottom = plane[lower * width + left] * (1 - over) + plane[lower * width + right] * over;
      result[y * wide + x] = top * (1 - down) + bottom * down;
    }
  }
  return result;
}

export function sampling(index, from, to) {
  const position = Math.min(Math.max(((index + 0.5) * from) / to - 0.5, 0), from - 1);
  const first = Math.floor(position);
  return [first, Math.min(first + 1, from - 1), position - first];
}

export const grey = (data, i) => (0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]) / 255;

// guide: RGBA bytes of the picture in small; probability: the network's mask, 0..1.
// Gives slope and offset (alpha = slope * grey + offset, before the last stretch), the small alpha, and the background's
// colours carried under the person.
export function fit(guide, width, height, probability, maskWidth, maskHeight) {
  const count = width * height;
  const light = combine(count, (i) => grey(guide, i));
  let small = resize(probability, maskWidth, maskHeight, width, height);
  let slope = small;
  let offset = small;
  for (const [stage, wanted] of STAGES.entries()) {
    const radius = Math.max(1, Math.round((wanted * Math.max(width, height)) / Math.max(maskWidth, maskHeight)));
    const blur = (plane) => box(plane, width, height, radius);
    const meanLight = blur(light);
    const meanSquare = blur(combine(count, (i) => light[i] * light[i]));
    const meanSmall = blur(small);
    const meanProduct = blur(combine(count, (i) => light[i] * small[i]));
    const steep = combine(count, (i) =>
      (meanProduct[i] - meanLight[i] * meanSmall[i]) / (Math.max(0, meanSquare[i] - meanLight[i] ** 2) + EPSILON));
    slope = blur(steep);
    offset = blur(combine(count, (i) => meanSmall[i] - steep[i] * meanLight[i]));
    const [low, high] = stage === STAGES.length - 1 ? [0.1, 0.9] : [0.2, 0.8];
    small = combine(count, (i) => stretch(slope[i] * light[i] + offset[i], low, high));
  }
  const behind = spread(guide, combine(count, (i) => (1 - small[i]) ** 2), width, height);
  return { slope, offset, small, behind, width, height };
}

// Colours (RGBA bytes) of one side of the edge, carried over it: three planes, 0..255.
export function spread(guide, weight, width, height) {
  const count = width * height;
  const scale = Math.max(1, Math.max(width, height) / 288);
  const total = weight.reduce((sum, value) => sum + value, 0) + 1e-6 * count;
  const windows = [[16, 1e-3], [2, 1e-2]].map(([radius, trust]) => [Math.max(1, Math.round(radius * scale)), trust]);
  const weights = windows.map(([radius]) => box(weight, width, height, radius));
  return [0, 1, 2].map((channel) => {
    const weighted = combine(count, (i) => guide[4 * i + channel] * weight[i]);
    const result = new Float32Array(count).fill(weighted.reduce((sum, value) => sum + value, 0) / total);
    for (const [stage, [radius, trust]] of windows.entries()) {
      const colours = box(weighted, width, height, radius);
      const here = weights[stage];
      for (let i = 0; i < count; i++) result[i] = (colours[i] + trust * result[i]) / (here[i] + trust);
    }
    return result;
  });
}

// The guide out of focus and without the person in it: RGBA bytes.  share: of the longer side, the blur's radius.
export function blurred(guide, { small, behind, width, height }, share = 0.02) {
  const count = width * height;
  const weight = combine(count, (i) => (1 - small[i]) ** 2);
  const radius = Math.max(1, Math.round(share * Math.max(width, height)));
  const thrice = (plane) => [0, 1, 2].reduce((given) => box(given, width, height, radius), plane);
  const weights = thrice(weight);
  const result = new Uint8ClampedArray(4 * count).fill(255);
  for (let channel = 0; channel < 3; channel++) {
    const colours = thrice(combine(count, (i) => guide[4 * i + channel] * weight[i]));
    for (let i = 0; i < count; i++) result[4 * i + channel] = (colours[i] + 1e-3 * behind[channel][i]) / (weights[i] + 1e-3);
  }
  return result;
}

// Lays the person of `pixels` (RGBA bytes, width x height) over `behind` (the same, or null: nothing), in place.
// Gives the person's share of the picture.
export function compose(pixels, width, height, matte, guide, behind) {
  const { slope, offset, small } = matte;
  const person = spread(guide, combine(small.length, (i) => small[i] ** 2), matte.width, matte.height);
  const columns = Array.from({ length: width }, (_, x) => sampling(x, matte.width, width));
  let total = 0;
  let [i0, i1, i2, i3, s0, s1, s2, s3] = [0, 0, 0, 0, 0, 0, 0, 0]; // no arrays in the loop: there are millions of pixels
  const at = (plane) => plane[i0] * s0 + plane[i1] * s1 + plane[i2] * s2 + plane[i3] * s3;
  for (let y = 0; y < height; y++) {
    const [upper, lower, down] = sampling(y, matte.height, height);
    for (let x = 0; x < width; x++) {
      const column = columns[x];
      const over = column[2];
      i0 = upper * matte.width + column[0];
      i1 = upper * matte.width + column[1];
      i2 = lower * matte.width + column[0];
      i3 = lower * matte.width + column[1];
      s0 = (1 - down) * (1 - over);
      s1 = (1 - down) * over;
      s2 = down * (1 - over);
      s3 = down * over;
      const i = y * width + x;
      const found = stretch(at(slope) * grey(pixels, i) + at(offset), 0.1, 0.9);
      const alpha = Math.min(found, pixels[4 * i + 3] / 255); // what is transparent already stays so
      total += alpha;
      if (alpha === 1) continue;
      for (let channel = 0; channel < 3; channel++) {
        const near = found === 0 ? 0 : at(person[channel]);
        const given = pixels[4 * i + channel];
        const own = found === 0 ? 0 : near + found * (given - found * near - (1 - found) * at(matte.behind[channel]));
        const clear = Math.min(255, Math.max(0, own));
        pixels[4 * i + channel] = behind ? alpha * clear + (1 - alpha) * behind[4 * i + channel] : clear;
      }
      pixels[4 * i + 3] = behind ? 255 : 255 * alpha;
    }
  }
  return total / (width * height);
}
