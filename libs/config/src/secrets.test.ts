import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isFault } from '@signalbox/faults/fault';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { environmentSecrets, fileSecrets, resolveSecrets } from './secrets.ts';
import { loadSettings, secret } from './settings.ts';
import { givenSources } from './sources.ts';

const reference = (name: string) => `\${secret:${name}}`;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'signalbox-secrets-'));
  writeFileSync(join(folder, 'model-key'), 'from a file\n');
  writeFileSync(join(folder, 'both'), 'from a file');
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('a secret', () => {
  const providers = () => [
    environmentSecrets({ SIGNALBOX_SECRET_BOTH: 'from the environment' }),
    fileSecrets(folder),
  ];

  test('is read from the first provider that knows it', async () => {
    expect(await resolveSecrets(reference('model-key'), providers())).toBe('from a file');
    expect(await resolveSecrets(`a ${reference('both')} b`, providers())).toBe('a from the environment b');
  });

  test('may come from a provider that takes its time', async () => {
    const vault = { name: 'vault', read: async (name: string) => `vault's ${name}` };
    expect(await resolveSecrets(`${reference('x')}, ${reference('x')}`, [vault])).toBe(
      "vault's x, vault's x",
    );
  });

  test('that nobody knows is a fault', async () => {
    const refused = await resolveSecrets(reference('missing'), providers()).catch((error: unknown) => error);
    expect(isFault(refused, 'SECRET_UNRESOLVED')).toBe(true);
  });

  test.each(['../etc/passwd', '.hidden', 'a/b', ''])('%j is no name, and stays text', async (name) => {
    expect(await resolveSecrets(reference(name), providers())).toBe(reference(name));
  });

  test('missing at the start is one of the mistakes', () => {
    const shape = { key: secret({ env: 'KEY', doc: '' }), other: secret({ env: 'OTHER', doc: '' }) };
    try {
      loadSettings('gateway', shape, givenSources({ KEY: reference('missing') }));
      expect.unreachable();
    } catch (error) {
      expect(isFault(error, 'CONFIG_INVALID') && error.errors).toEqual([
        { path: 'KEY', message: 'no provider knows the secret missing' },
        { path: 'OTHER', message: 'is required' },
      ]);
    }
  });
});
