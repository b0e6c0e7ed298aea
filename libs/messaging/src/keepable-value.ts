/** Deeper values are refused, as at the HTTP edge: what walks a value (storage, logging, jsonb) may recurse. */
export const maxValueDepth = 64;

const unicodeEscape = Buffer.from('\\u');

/**
 * Why no store could keep this value as it is, or undefined. JSON allows three things that change or fail on their way:
 * NUL and lone surrogates in a text (Postgres refuses the one, UTF-8 replaces the other), numbers that are no finite
 * double (they would be stored as null), nesting without bound. `bytes` is the valid UTF-8 that the value was parsed
 * from: without an escape in it neither NUL nor a lone surrogate can be there, and no text has to be looked into.
 */
export function whyNotKeepable(value: unknown, bytes: Buffer): string | undefined {
  return mistakeIn(value, bytes.includes(unicodeEscape), 0);
}

function mistakeIn(value: unknown, texts: boolean, depth: number): string | undefined {
  if (typeof value === 'string') return texts ? textMistake(value) : undefined;
  if (typeof value === 'number') return Number.isFinite(value) ? undefined : 'a number is no finite double';
  if (!isNested(value)) return undefined;
  if (depth === maxValueDepth) return `it is nested deeper than ${maxValueDepth}`;
  // JSON.parse makes own properties only, `__proto__` among them, so for…in sees the members and nothing else.
  for (const name in value) {
    const each = value[name];
    if (typeof each === 'string' && !texts) continue;
    const mistake = (texts ? textMistake(name) : undefined) ?? mistakeIn(each, texts, depth + 1);
    if (mistake !== undefined) return mistake;
  }
  return undefined;
}

function isNested(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}

function textMistake(text: string): string | undefined {
  if (text.includes('\u0000')) return 'a text holds NUL';
  return text.isWellFormed() ? undefined : 'a text holds a lone surrogate';
}
