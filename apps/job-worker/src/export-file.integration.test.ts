import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { newId } from '@signalbox/contracts/ids';
import { afterAll, expect, test } from 'vitest';
import { writeExport } from './export-file.ts';

const folder = mkdtempSync(join(tmpdir(), 'signalbox-exports-'));
afterAll(() => rmSync(folder, { recursive: true }));

async function* pages() {
  for (let row = 0; row < 10; row += 1) yield [{ row, text: 'x'.repeat(1_000) }];
}
const write = (tenant: string, jobId = newId(), attempt = 1) =>
  writeExport({
    ...{ folder, tenant, jobId, attempt, header: {}, pages: pages(), held: () => true },
    ...{ maxRows: 100, maxBytes: 20_000, maxTenantBytes: 25_000 },
  });

test('a tenant keeps so many bytes of exports, and one that goes beyond leaves no file; others have their own', async () => {
  const first = newId();
  await write('acme', first);
  await write('acme');
  await expect(write('acme')).rejects.toMatchObject({
    code: 'BODY_TOO_LARGE',
    message: expect.stringContaining('EXPORT_TENANT_MAX_MB'),
  });
  expect(readdirSync(join(folder, 'acme'))).toHaveLength(2);
  // Run again after a crash, its own file does not count against it.
  await write('acme', first, 2);
  await write('globex');
});
