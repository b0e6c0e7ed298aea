import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { documents } from './schema-documents.ts';
import { topicList } from './topics.ts';

const root = join(import.meta.dirname, '../../..');
const read = (path: string) => readFileSync(join(root, path), 'utf8');

test.each([...documents()])('%s is what the types say (else: npm run schemas)', (path, content) => {
  expect(read(path)).toBe(content);
});

test('schemas/ holds no topic schema that nothing generates', () => {
  const kept = readdirSync(join(root, 'schemas')).filter((name) => /^[a-z]+\..*\.schema\.json$/.test(name));
  expect(kept.map((name) => `schemas/${name}`).filter((path) => !documents().has(path))).toEqual([]);
});

test('asyncapi.json refers only to what is there', () => {
  const references: string[] = [];
  const document: unknown = JSON.parse(read('schemas/asyncapi.json'), (key, value) => {
    if (key === '$ref') {
      references.push(value);
    }
    return value;
  });
  for (const reference of references) {
    const [file = '', pointer = ''] = reference.split('#');
    const start: unknown = file === '' ? document : JSON.parse(read(join('schemas', file)));
    const target = pointer
      .split('/')
      .slice(1)
      .reduce<unknown>(
        (at, part) => (typeof at === 'object' && at !== null ? Reflect.get(at, part) : undefined),
        start,
      );
    expect(target, reference).toBeDefined();
  }
  expect(references.length).toBeGreaterThan(topicList.length);
});
