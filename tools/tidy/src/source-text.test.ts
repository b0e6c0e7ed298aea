import { expect, it } from 'vitest';
import { readSource } from './source-text.ts';

const specifiers = (text: string) =>
  readSource(text).imports.map((each) => `${each.line} ${each.kind} ${each.specifier}`);

it('finds every form of import with its line', () => {
  expect(
    specifiers(
      [
        "import a from 'a';",
        "import type { B } from 'b';",
        "import c, { type C2, c3 as c4 } from 'c';",
        "import * as d from 'd';",
        "import 'e';",
        'import {',
        '  f,',
        "} from 'f';",
        "export { g } from 'g';",
        "export * as h from 'h';",
        "export type { I } from 'i';",
        "const j = await import('j');",
        "const k = require('k');",
      ].join('\n'),
    ),
  ).toEqual([
    '1 import a',
    '2 import b',
    '3 import c',
    '4 import d',
    '5 import e',
    '8 import f',
    '9 export g',
    '10 export h',
    '11 export i',
    '12 dynamic j',
    '13 dynamic k',
  ]);
});

it('finds none in comments, strings, templates and regular expressions', () => {
  expect(
    specifiers(
      [
        "// import a from 'a';",
        "/* import b from 'b';",
        "import c from 'c'; */",
        'const d = "import e from \'e\';";',
        // biome-ignore lint/suspicious/noTemplateCurlyInString: the sample is source code
        "const f = `import g from 'g'; ${1}`;",
        "const h = /import i from 'i'/;",
        'export const x = 1;',
        "export function from(y: string) { return 'j'; }",
        'const url = import.meta.url;',
      ].join('\n'),
    ),
  ).toEqual([]);
});

it('sees code inside templates, and a slash that divides', () => {
  const { code } = readSource(
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the sample is source code
    "const a = `x ${process.env.A} ${`y ${b / c / d}`} z`; const e = a / 2; // 'f'\nconst g = h[0] / 2 / i;",
  );
  expect(code).toContain('process.env.A');
  expect(code).toContain('b / c / d');
  expect(code).not.toContain("'f'");
  expect(code).toContain('h[0] / 2 / i');
});

it('keeps every offset and line', () => {
  const text = "const a = 'b';\n/* c\n d */ const e = /f[/]'/g;\n\nconst g = 1;\n";
  const source = readSource(text);
  expect(source.code.length).toBe(text.length);
  expect(source.lineOf(text.indexOf('const g'))).toBe(5);
  expect(source.lines).toBe(5);
  expect(source.code.slice(text.indexOf('const g'))).toBe('const g = 1;\n');
});
