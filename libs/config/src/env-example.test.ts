import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { declaredSettings, renderEnvExample } from './env-example.ts';
import { projectRoot } from './sources.ts';

test('.env.example is what the settings say', async () => {
  const declared = await declaredSettings();
  expect(declared.map((each) => each.owner)).toContain('libs/config service');
  const text = readFileSync(join(projectRoot, '.env.example'), 'utf8');
  expect(text, 'run npm run env-example').toBe(renderEnvExample(declared));
});

test('every setting says what it does, and its name is UPPER_SNAKE', async () => {
  for (const { settings } of await declaredSettings()) {
    for (const { env, doc } of settings) {
      expect(env).toMatch(/^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$/);
      expect(doc, env).toMatch(/\S+.*\.$/);
    }
  }
});
