/** Texts as people's memories are: words by Zipf's law over a vocabulary, from a seed, so that runs are alike. */
export interface TextSource {
  /** 80 to 400 characters. */
  text(): string;
  /** 3 to 12 words, drawn as those of the texts are: most of them common. */
  query(): string;
  /** From 0 up to, not with, 1. */
  next(): number;
}

const commonWords =
  'the of and to in a is that it was for on with as he be at by had not are but from or have'.split(' ');
const beginnings =
  'b br c ch cl d dr f fl g gr h j k kl l m n p pl pr qu r s sch sk sl sp st t tr v w wr z'.split(' ');
const middles = 'a ai au e ea ee ei i ie o oa oo ou u ue y'.split(' ');
const endings = ' b ck d ft g l ll lt m mp n nd ng nt p r rd rk rn rt s sh ss st t th x'.split(' ');

/** Words that look like words: a trigram of one is in few others. */
export function vocabulary(size: number): string[] {
  const next = random(7);
  const pick = (from: readonly string[]) => from[Math.floor(next() * from.length)] ?? '';
  const words = new Set(commonWords);
  while (words.size < size) {
    const syllables = 1 + Math.floor(next() * 3);
    let word = '';
    for (let at = 0; at < syllables; at += 1) word += pick(beginnings) + pick(middles) + pick(endings);
    if (word.length >= 3) words.add(word);
  }
  return [...words];
}

export function textSource(seed: number, words: readonly string[]): TextSource {
  const next = random(seed);
  const word = zipf(words, next);
  return {
    next,
    text() {
      const length = 80 + next() * 320;
      let text = word();
      while (text.length < length) text += ` ${word()}`;
      return `${text}.`;
    },
    query: () => Array.from({ length: 3 + Math.floor(next() * 10) }, word).join(' '),
  };
}

function zipf(words: readonly string[], next: () => number): () => string {
  const shares = new Float64Array(words.length);
  let total = 0;
  for (let rank = 0; rank < words.length; rank += 1) {
    total += 1 / (rank + 1);
    shares[rank] = total;
  }
  return () => {
    const at = next() * total;
    let low = 0;
    let high = words.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((shares[middle] ?? 0) < at) low = middle + 1;
      else high = middle;
    }
    return words[low] ?? '';
  };
}

/** mulberry32: small, fast, the same everywhere. */
function random(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
