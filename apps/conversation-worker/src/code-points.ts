/**
 * Text as it may be stored and streamed: well formed (a lone surrogate becomes U+FFFD) and without NUL, which jsonb and
 * the client's parsers refuse.
 */
export function cleanText(text: string): string {
  const wellFormed = text.isWellFormed() ? text : text.toWellFormed();
  return wellFormed.includes('\u0000') ? wellFormed.replaceAll('\u0000', '\ufffd') : wellFormed;
}

/** A JSON value with all its texts cleaned, names of fields among them. */
export function cleanFields(fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [cleanText(name), cleanValue(value)]),
  );
}

function cleanValue(value: unknown): unknown {
  if (typeof value === 'string') return cleanText(value);
  if (Array.isArray(value)) return value.map(cleanValue);
  return typeof value === 'object' && value !== null ? cleanFields({ ...value }) : value;
}

/** Code points of a well-formed text: its UTF-16 units less one for each surrogate pair. */
export function countCodePoints(text: string): number {
  let pairs = 0;
  for (let at = 0; at < text.length; at++) {
    if (isHighSurrogate(text.charCodeAt(at))) pairs++;
  }
  return text.length - pairs;
}

/** Whether the text ends with the first half of a pair whose second half may still come. */
export function endsInsidePair(text: string): boolean {
  return text.length > 0 && isHighSurrogate(text.charCodeAt(text.length - 1));
}

/** Where a text may be cut so that at most `units` UTF-16 units come before the cut and no pair is parted. */
export function cutBefore(text: string, units: number): number {
  if (text.length <= units) return text.length;
  return isHighSurrogate(text.charCodeAt(units - 1)) ? units - 1 : units;
}

function isHighSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit <= 0xdbff;
}
