import { isUtf8 } from 'node:buffer';
import { type Fault, type FieldError, fault } from '@signalbox/faults/fault';
import { visit } from 'jsonc-parser';

/** Deeper bodies are refused: what walks a value (validation, logging, storage) may recurse. */
export const maxJsonDepth = 64;

/** A reply lists at most this many places. */
export const maxReportedErrors = 20;

const quote = 0x22;
const backslash = 0x5c;
const colon = 0x3a;
const openBrace = 0x7b;
const closeBrace = 0x7d;
const openBracket = 0x5b;
const closeBracket = 0x5d;
const letterU = 0x75;

/**
 * Reads a JSON text strictly. MALFORMED_REQUEST (400): not UTF-8, not JSON, a key twice in one object. VALIDATION_ERROR
 * (422): deeper than 64, NUL or a lone surrogate in a text (Postgres and UTF-8 cannot hold them), a number that is no
 * finite double.
 *
 * JSON.parse does the reading. One pass over the text beside it counts members, so that a repeated key shows as a
 * member that the value does not have; texts are looked into only when the body holds a `\u` escape, for without one
 * neither NUL nor a lone surrogate can be written in valid UTF-8.
 */
export function parseStrictJson(bytes: Buffer): unknown {
  if (!isUtf8(bytes)) throw fault('MALFORMED_REQUEST', 'the body is not UTF-8');
  const text = bytes.toString('utf8');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw fault('MALFORMED_REQUEST', 'the body is not JSON', { cause: error });
  }
  const shape = scan(text);
  if (shape.depth > maxJsonDepth) {
    throw invalid([{ path: '', message: `must not be nested deeper than ${maxJsonDepth}` }]);
  }
  const tally: Tally = { members: 0, infinite: false };
  count(value, tally);
  if (tally.members !== shape.members) {
    throw fault('MALFORMED_REQUEST', 'the body has a key twice in one object', {
      errors: [{ path: findDuplicate(text), message: 'is there twice' }],
    });
  }
  if (shape.unicodeEscape || tally.infinite) {
    const errors: FieldError[] = [];
    checkValue(value, '', errors);
    if (errors.length > 0) throw invalid(errors);
  }
  return value;
}

function invalid(errors: FieldError[]): Fault {
  return fault('VALIDATION_ERROR', 'the body holds a value that cannot be kept', { errors });
}

interface Shape {
  readonly depth: number;
  readonly members: number;
  readonly unicodeEscape: boolean;
}

/** One pass over a text that JSON.parse has taken, so every string is closed. A colon outside strings is a member. */
function scan(text: string): Shape {
  const escaped = text.includes('\\');
  const end = text.length;
  let depth = 0;
  let deepest = 0;
  let members = 0;
  let unicodeEscape = false;
  for (let at = 0; at < end; at += 1) {
    const code = text.charCodeAt(at);
    if (code === quote) {
      at += 1;
      // Without an escape in the whole text the engine's own search jumps to the end of the string.
      if (!escaped) at = text.indexOf('"', at);
      else {
        for (let inside = text.charCodeAt(at); inside !== quote; inside = text.charCodeAt(at)) {
          if (inside === backslash) {
            at += 1;
            if (text.charCodeAt(at) === letterU) unicodeEscape = true;
          }
          at += 1;
        }
      }
    } else if (code === colon) members += 1;
    else if (code === openBrace || code === openBracket) {
      depth += 1;
      if (depth > deepest) deepest = depth;
    } else if (code === closeBrace || code === closeBracket) depth -= 1;
  }
  return { depth: deepest, members, unicodeEscape };
}

interface Tally {
  members: number;
  /** JSON allows 1e999, a double does not: it would be stored as null. */
  infinite: boolean;
}

function count(value: unknown, tally: Tally): void {
  if (typeof value === 'number') {
    if (!Number.isFinite(value)) tally.infinite = true;
  } else if (Array.isArray(value)) {
    for (const each of value) if (typeof each !== 'string') count(each, tally);
  } else if (isRecord(value)) {
    // JSON.parse makes own properties only, `__proto__` among them, so for…in sees the members and nothing else.
    for (const name in value) {
      tally.members += 1;
      const each = value[name];
      if (typeof each !== 'string') count(each, tally);
    }
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function checkText(text: string, path: string, errors: FieldError[]): void {
  if (text.includes('\0')) errors.push({ path, message: 'must not hold NUL' });
  else if (!text.isWellFormed()) errors.push({ path, message: 'must not hold a lone surrogate' });
}

function checkValue(value: unknown, path: string, errors: FieldError[]): void {
  if (errors.length >= maxReportedErrors) return;
  if (typeof value === 'string') checkText(value, path, errors);
  else if (typeof value === 'number') {
    if (!Number.isFinite(value)) errors.push({ path, message: 'must be a finite number' });
  } else if (Array.isArray(value)) {
    for (const [index, each] of value.entries()) checkValue(each, `${path}/${index}`, errors);
  } else if (isRecord(value)) {
    for (const [name, each] of Object.entries(value)) {
      const inside = `${path}/${pointerPart(name)}`;
      checkText(name, inside, errors);
      checkValue(each, inside, errors);
    }
  }
}

/** One step of a JSON pointer (RFC 6901), kept short and well formed for the reply. */
function pointerPart(name: string | number): string {
  return String(name).slice(0, 64).toWellFormed().replaceAll('~', '~0').replaceAll('/', '~1');
}

/** Where the first repeated key stands. Slow and exact; runs only for a body that has one. */
function findDuplicate(text: string): string {
  const open: Set<string>[] = [];
  let found: string | undefined;
  visit(text, {
    onObjectBegin: () => void open.push(new Set()),
    onObjectEnd: () => void open.pop(),
    onObjectProperty: (name, _offset, _length, _line, _character, pathTo) => {
      const seen = open.at(-1);
      if (seen?.has(name)) found ??= [...pathTo(), name].map((part) => `/${pointerPart(part)}`).join('');
      seen?.add(name);
    },
  });
  return found ?? '';
}
