/**
 * Arithmetic by recursive descent; nothing of it is ever run as code.
 *
 *     sum     = product { (+|-) product }
 *     product = sign { (*|/|%) sign }
 *     sign    = (-|+) sign | power
 *     power   = atom [ ^ sign ]                   right to left, and closer than a sign: -2^2 is -4
 *     atom    = number | name | name ( sum {, sum} ) | ( sum )
 *
 * Bounded: text by the caller's schema, nesting by `maxDepth`, so that no input overflows the stack.
 */
export class ExpressionError extends Error {
  override readonly name = 'ExpressionError';
}

const maxDepth = 100;
const token =
  /\s*(?:(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([A-Za-z][A-Za-z0-9]*)|(\*\*|[-+*/%^(),]))/y;

const constants: ReadonlyMap<string, number> = new Map([
  ['pi', Math.PI],
  ['e', Math.E],
]);

type Arity = { readonly least: number; readonly most: number };
const one: Arity = { least: 1, most: 1 };
const some: Arity = { least: 1, most: 100 };
const functions: ReadonlyMap<string, Arity & { readonly of: (...values: number[]) => number }> = new Map([
  ['abs', { ...one, of: Math.abs }],
  ['sqrt', { ...one, of: Math.sqrt }],
  ['cbrt', { ...one, of: Math.cbrt }],
  ['round', { ...one, of: Math.round }],
  ['floor', { ...one, of: Math.floor }],
  ['ceil', { ...one, of: Math.ceil }],
  ['trunc', { ...one, of: Math.trunc }],
  ['exp', { ...one, of: Math.exp }],
  ['ln', { ...one, of: Math.log }],
  ['log', { ...one, of: Math.log10 }],
  ['log2', { ...one, of: Math.log2 }],
  ['sin', { ...one, of: Math.sin }],
  ['cos', { ...one, of: Math.cos }],
  ['tan', { ...one, of: Math.tan }],
  ['min', { ...some, of: Math.min }],
  ['max', { ...some, of: Math.max }],
]);

/** The names that an expression may use, for the tool's description. */
export const expressionNames: readonly string[] = [...functions.keys(), ...constants.keys()];

/** The value of an arithmetic expression. Throws ExpressionError that says what is wrong and where. */
export function evaluate(text: string): number {
  const tokens = split(text);
  let at = 0;
  let depth = 0;

  const peek = () => tokens[at]?.text;
  const fail = (what: string): never => {
    const place = tokens[at];
    throw new ExpressionError(place === undefined ? `${what} at the end` : `${what} at ${place.at + 1}`);
  };
  const take = (expected: string) => (peek() === expected ? at++ : fail(`expected ${expected}`));

  function sum(): number {
    if (++depth > maxDepth) {
      fail(`nested deeper than ${maxDepth}`);
    }
    let value = product();
    for (let sign = peek(); sign === '+' || sign === '-'; sign = peek()) {
      at += 1;
      const right = product();
      value = sign === '+' ? value + right : value - right;
    }
    depth -= 1;
    return value;
  }

  function product(): number {
    let value = signed();
    for (let operator = peek(); operator === '*' || operator === '/' || operator === '%'; operator = peek()) {
      at += 1;
      const right = signed();
      if (right === 0 && operator !== '*') {
        throw new ExpressionError('division by zero');
      }
      value = operator === '*' ? value * right : operator === '/' ? value / right : value % right;
    }
    return value;
  }

  function signed(): number {
    let negative = false;
    for (let sign = peek(); sign === '-' || sign === '+'; sign = peek()) {
      negative = negative !== (sign === '-');
      at += 1;
    }
    const value = power();
    return negative ? -value : value;
  }

  function power(): number {
    const value = atom();
    if (peek() !== '^') {
      return value;
    }
    at += 1;
    if (++depth > maxDepth) {
      fail(`nested deeper than ${maxDepth}`);
    }
    const result = value ** signed();
    depth -= 1;
    return result;
  }

  function atom(): number {
    const next = tokens[at];
    if (next === undefined) {
      return fail('expected a number');
    }
    if (next.kind === 'number') {
      at += 1;
      return Number(next.text);
    }
    if (next.kind === 'name') {
      return named(next.text.toLowerCase());
    }
    take('(');
    const value = sum();
    take(')');
    return value;
  }

  function named(name: string): number {
    const constant = constants.get(name);
    const known = functions.get(name);
    if (constant === undefined && known === undefined) {
      return fail(`unknown name ${name}`);
    }
    at += 1;
    if (known === undefined) {
      return constant ?? Number.NaN;
    }
    take('(');
    const values = [sum()];
    while (peek() === ',') {
      at += 1;
      values.push(sum());
    }
    if (values.length < known.least || values.length > known.most) {
      fail(`${name} takes ${known.most === 1 ? '1 value' : `1 to ${known.most} values`}, before`);
    }
    take(')');
    return known.of(...values);
  }

  const value = sum();
  if (at < tokens.length) {
    fail(`unexpected ${peek()}`);
  }
  if (!Number.isFinite(value)) {
    throw new ExpressionError('the result is not a finite number');
  }
  return value;
}

interface Token {
  readonly kind: 'number' | 'name' | 'sign';
  readonly text: string;
  readonly at: number;
}

function split(text: string): Token[] {
  const tokens: Token[] = [];
  const end = text.trimEnd().length;
  token.lastIndex = 0;
  while (token.lastIndex < end) {
    const start = token.lastIndex;
    const match = token.exec(text);
    if (match === null) {
      const place = start + text.slice(start).search(/\S/);
      throw new ExpressionError(`unexpected ${JSON.stringify(text[place])} at ${place + 1}`);
    }
    const [whole, number, name, sign] = match;
    const at = start + whole.length - (number ?? name ?? sign ?? '').length;
    if (number !== undefined) {
      tokens.push({ kind: 'number', text: number, at });
    } else if (name !== undefined) {
      tokens.push({ kind: 'name', text: name, at });
    } else {
      tokens.push({ kind: 'sign', text: sign === '**' ? '^' : (sign ?? ''), at });
    }
  }
  return tokens;
}
