import { asFault } from '@signalbox/faults/fault';
import { isSecretName, redact } from './redact.ts';

const maxDepth = 8;
const maxEntries = 200;
const maxTextChars = 16_384;
const maxCauses = 5;

const snakeNames = new Map<string, string>();

/** `turnId` → `turn_id`. A name that is not camelCase (`DATABASE_URL`, `conversation.inbound`) stays as it is. */
export function snakeName(name: string): string {
  const known = snakeNames.get(name);
  if (known !== undefined) return known;
  const snake = /^[a-z][A-Za-z0-9]*$/.test(name)
    ? name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
    : name;
  // Names are written in code, so they are few; what comes from data must not make this grow for ever.
  if (snakeNames.size < 5_000) snakeNames.set(name, snake);
  return snake;
}

/** Fields as they are written: snake_case, redacted, bounded, an `error` taken apart. Total: it never throws. */
export function logFields(fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const written: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined) continue;
    if (name === 'error') Object.assign(written, errorFields(value));
    else writeField(written, name, value, 0);
  }
  return written;
}

function writeField(into: Record<string, unknown>, name: string, value: unknown, depth: number): void {
  const snake = snakeName(name);
  into[snake] = isSecretName(snake) && value !== null && value !== undefined ? '***' : plain(value, depth);
}

function plain(value: unknown, depth: number): unknown {
  switch (typeof value) {
    case 'string':
      return text(value);
    case 'number':
      return Number.isFinite(value) ? value : String(value);
    case 'boolean':
      return value;
    case 'bigint':
      return value.toString();
    case 'object':
      return value === null ? null : plainObject(value, depth);
    default:
      return undefined;
  }
}

function plainObject(value: object, depth: number): unknown {
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'Invalid Date' : value.toISOString();
  if (value instanceof Error) return text(`${value.name}: ${value.message}`);
  if (ArrayBuffer.isView(value)) return `<${value.byteLength} bytes>`;
  // Depth also ends a circle.
  if (depth >= maxDepth) return '…';
  if (Array.isArray(value)) {
    const shown = value.slice(0, maxEntries).map((entry) => plain(entry, depth + 1) ?? null);
    return value.length > maxEntries ? [...shown, `… ${value.length - maxEntries} more`] : shown;
  }
  if (value instanceof Map) return plainObject(Object.fromEntries(value), depth);
  if (value instanceof Set) return plainObject([...value], depth);
  const written: Record<string, unknown> = {};
  let count = 0;
  for (const [name, entry] of Object.entries(value)) {
    if (entry === undefined) continue;
    count += 1;
    if (count > maxEntries) {
      written['…'] = 'more';
      break;
    }
    writeField(written, name, entry, depth + 1);
  }
  return written;
}

function text(value: string): string {
  const shown =
    value.length > maxTextChars ? `${value.slice(0, maxTextChars)}… ${value.length} chars` : value;
  return redact(shown);
}

function errorFields(error: unknown): Record<string, unknown> {
  const known = asFault(error);
  const shown = error instanceof Error ? error : known;
  return {
    error_code: known.code,
    error_type: shown.name === 'Error' ? shown.constructor.name : shown.name,
    error_message: text(error instanceof Error ? error.message : String(error)),
    stack: text(stackWithCauses(shown)),
    ...(known.errors === undefined ? {} : { errors: plain(known.errors, 0) }),
    ...(known.details === undefined ? {} : { error_details: plain(known.details, 0) }),
  };
}

function stackWithCauses(error: Error): string {
  const parts: string[] = [];
  let at: unknown = error;
  while (at !== undefined && at !== null && parts.length < maxCauses) {
    parts.push(at instanceof Error ? (at.stack ?? `${at.name}: ${at.message}`) : String(at));
    at = at instanceof Error ? at.cause : undefined;
  }
  return parts.join('\nCaused by: ');
}
