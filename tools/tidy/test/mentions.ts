/** What a document says exists: a path of the repository, a function in a file of it, a test by its title, or an npm script. */
export type Mention =
  | { readonly kind: 'path'; readonly line: number; readonly path: string }
  | { readonly kind: 'function'; readonly line: number; readonly path: string; readonly name: string }
  | { readonly kind: 'test'; readonly line: number; readonly path: string; readonly title: string }
  | { readonly kind: 'script'; readonly line: number; readonly name: string };

/** A path of the repository begins with one of its folders, or is a file of its root. */
const path = String.raw`(?:\.{1,2}/)*(?:apps|libs|dev|bench|regression|docs|deploy|tools|schemas|\.github|\.ci)(?:/[\w.@*-]+)*/?`;
const inCode = new RegExp(
  String.raw`(?:^|[\s(\x60"'=])(${path})(?::([A-Za-z_][\w.]*))?(?=[\s)\x60"',;:]|\.?$|\.\s)`,
  'g',
);
const test = new RegExp(String.raw`\x60(${path}\.(?:test|regression)\.ts)\x60: "([^"]+)"`, 'g');
const link = /\]\(([^)\s]+)\)/g;
const script = /\bnpm (?:run ([\w:-]+)|(start|test))\b/g;

/**
 * Finds what the text of a Markdown page mentions. Links count from the page's folder, everything else from the root.
 * `http:` links and anchors are left out.
 */
export function mentionsIn(page: string, text: string): Mention[] {
  const folder = page.split('/').slice(0, -1);
  return text.split('\n').flatMap((content, index) => {
    const line = index + 1;
    const found: Mention[] = [];
    const withoutLinks = content.replaceAll(link, (_, target: string) => {
      const [file = ''] = target.split('#');
      if (file !== '' && !/^[a-z]+:/.test(file)) {
        found.push({ kind: 'path', line, path: resolve([...folder, ...file.split('/')]) });
      }
      return ']';
    });
    for (const [, mentioned = '', name] of withoutLinks.matchAll(inCode)) {
      const whole = resolve(mentioned.replace(/\.$/, '').split('/'));
      found.push(
        name === undefined
          ? { kind: 'path', line, path: whole }
          : { kind: 'function', line, path: whole, name: name.replace(/\.$/, '') },
      );
    }
    for (const [, file = '', title = ''] of content.matchAll(test)) {
      found.push({ kind: 'test', line, path: file, title });
    }
    for (const [, run, own] of withoutLinks.matchAll(script)) {
      found.push({ kind: 'script', line, name: run ?? own ?? '' });
    }
    return found;
  });
}

function resolve(parts: readonly string[]): string {
  const path: string[] = [];
  for (const part of parts) {
    if (part === '..') path.pop();
    else if (part !== '.' && part !== '') path.push(part);
  }
  return path.join('/');
}

/** Whether a test file has a test or a group of this title. */
export function hasTest(source: string, title: string): boolean {
  return ["'", '"', '`'].some((quote) => source.includes(`${quote}${title}${quote}`));
}

/** Whether a source defines the name: a declaration, a method, a member of an object, a function in SQL. */
export function defines(source: string, name: string): boolean {
  const word = name.replaceAll('.', '\\.');
  return new RegExp(
    [
      String.raw`\b(?:function\*?|class|const|let|interface|type)\s+${word}\b`,
      String.raw`^\s*(?:(?:async|get|static|export|readonly)\s+)*#?${word}\s*(?:<[^>\n]*>)?\(`,
      String.raw`^\s*#?${word}:\s*(?:async\s*)?(?:\(|\w+\s*=>)`,
      String.raw`^create (?:or replace )?function ${word}\(`,
    ].join('|'),
    'm',
  ).test(source);
}
