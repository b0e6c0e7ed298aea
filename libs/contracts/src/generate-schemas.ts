import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { documents } from './schema-documents.ts';

// `npm run schemas`: writes schemas/ and docs/reference/topics.md from the types of this library.
const root = join(import.meta.dirname, '../../..');
for (const [path, content] of documents()) {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), content);
}
