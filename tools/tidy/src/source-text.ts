/** One `import`, `export … from`, `import()` or `require()` with a literal specifier. */
export interface Import {
  readonly specifier: string;
  readonly line: number;
  readonly kind: 'import' | 'export' | 'dynamic';
}

export interface SourceText {
  /** The text with comments and the insides of strings blanked, every line and column where it was. */
  readonly code: string;
  readonly imports: readonly Import[];
  readonly strings: readonly Literal[];
  readonly lines: number;
  lineOf(offset: number): number;
}

interface Literal {
  /** Offset of the opening quote. */
  readonly start: number;
  readonly value: string;
}

/** Reads a TypeScript source far enough for house rules: strings, templates, comments and regular expressions. */
export function readSource(text: string): SourceText {
  const { code, strings } = blank(text);
  const starts = [0];
  for (let at = text.indexOf('\n'); at !== -1; at = text.indexOf('\n', at + 1)) starts.push(at + 1);
  const lineOf = (offset: number): number => {
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if ((starts[middle] ?? 0) <= offset) low = middle;
      else high = middle - 1;
    }
    return low + 1;
  };
  const lines = text.endsWith('\n') ? starts.length - 1 : starts.length;
  return { code, strings, lines, lineOf, imports: findImports(code, strings, lineOf) };
}

const importForms: readonly (readonly [Import['kind'], RegExp])[] = [
  ['import', /(?<![.\w$])import\s+(?:type\s+)?[\w$*{},\s]*?\bfrom\s*(?=['"])/g],
  ['import', /(?<![.\w$])import\s*(?=['"])/g],
  ['export', /(?<![.\w$])export\s+(?:type\s+)?[\w$*{},\s]*?\bfrom\s*(?=['"])/g],
  ['dynamic', /(?<![.\w$])(?:import|require)\s*\(\s*(?=['"])/g],
];

function findImports(
  code: string,
  strings: readonly Literal[],
  lineOf: (offset: number) => number,
): Import[] {
  const byStart = new Map(strings.map((each) => [each.start, each.value]));
  const found: Import[] = [];
  for (const [kind, form] of importForms) {
    for (const match of code.matchAll(form)) {
      const quoteAt = match.index + match[0].length;
      const specifier = byStart.get(quoteAt);
      if (specifier !== undefined) found.push({ kind, specifier, line: lineOf(quoteAt) });
    }
  }
  return found.sort((a, b) => a.line - b.line);
}

/** Words after which a slash begins a regular expression, not a division. */
const wordsBeforeRegex =
  /(?:^|[^\w$.])(?:return|typeof|case|in|of|do|else|void|delete|throw|new|await|yield)$/;

function blank(text: string): { code: string; strings: Literal[] } {
  const out =
    [...text].length === text.length
      ? text.split('')
      : Array.from({ length: text.length }, (_, i) => text.charAt(i));
  const strings: Literal[] = [];
  /** Brace depth at which each open `${` ends. */
  const templates: number[] = [];
  let depth = 0;
  let at = 0;
  let lastCode = '';

  const wipe = (from: number, to: number) => {
    for (let i = from; i < to && i < out.length; i += 1) if (out[i] !== '\n') out[i] = ' ';
  };
  const template = (from: number) => {
    let end = from;
    while (end < text.length && text[end] !== '`' && !(text[end] === '$' && text[end + 1] === '{')) {
      end += text[end] === '\\' ? 2 : 1;
    }
    wipe(from, end);
    strings.push({ start: from - 1, value: text.slice(from, end) });
    if (text[end] === '$') {
      templates.push(depth);
      depth += 1;
      at = end + 2;
    } else at = end + 1;
    lastCode = '`';
  };

  while (at < text.length) {
    const char = text[at] ?? '';
    const next = text[at + 1];
    if (char === '/' && next === '/') {
      const end = text.indexOf('\n', at);
      wipe(at, end === -1 ? text.length : end);
      at = end === -1 ? text.length : end;
    } else if (char === '/' && next === '*') {
      const end = text.indexOf('*/', at + 2);
      const stop = end === -1 ? text.length : end + 2;
      wipe(at, stop);
      at = stop;
    } else if (char === "'" || char === '"') {
      let end = at + 1;
      while (end < text.length && text[end] !== char && text[end] !== '\n') end += text[end] === '\\' ? 2 : 1;
      strings.push({ start: at, value: text.slice(at + 1, end) });
      wipe(at + 1, end);
      at = end + 1;
      lastCode = char;
    } else if (char === '`') template(at + 1);
    else if (char === '}' && templates.at(-1) === depth - 1) {
      templates.pop();
      depth -= 1;
      template(at + 1);
    } else if (char === '/' && beginsRegex(lastCode, text.slice(Math.max(0, at - 12), at).trimEnd())) {
      const end = regexEnd(text, at);
      wipe(at + 1, end);
      at = end + 1;
      lastCode = '/';
    } else {
      if (char === '{') depth += 1;
      if (char === '}') depth -= 1;
      if (!/\s/.test(char)) lastCode = char;
      at += 1;
    }
  }
  return { code: out.join(''), strings };
}

function beginsRegex(lastCode: string, before: string): boolean {
  return lastCode === '' || '(,=:[!&|?{};+-*%^~<>'.includes(lastCode) || wordsBeforeRegex.test(before);
}

function regexEnd(text: string, from: number): number {
  let inClass = false;
  for (let at = from + 1; at < text.length; at += 1) {
    const char = text[at];
    if (char === '\\') at += 1;
    else if (char === '[') inClass = true;
    else if (char === ']') inClass = false;
    else if (char === '\n' || (char === '/' && !inClass)) return at;
  }
  return text.length;
}
