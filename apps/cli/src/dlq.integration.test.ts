import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { environmentWith } from '@signalbox/config/process-environment';
import { newId } from '@signalbox/contracts/ids';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { type SpanCollector, startSpanCollector } from '@signalbox/testkit/span-collector';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';

const program = join(import.meta.dirname, '../bin/signalbox.js');
const folder = mkdtempSync(join(tmpdir(), 'signalbox-dlq-'));
let database: TestDatabase;
let collector: SpanCollector;

beforeAll(async () => {
  [database, collector] = await Promise.all([createTestDatabase(), startSpanCollector()]);
});
afterAll(async () => {
  rmSync(folder, { recursive: true });
  await Promise.all([database?.drop(), collector?.close()]);
});
beforeEach(() => database.query('delete from messaging.dead_letters'));

function dlq(args: string[], url = database.ownerUrl) {
  return new Promise<{ code: number; out: string; err: string }>((resolve) => {
    const env = environmentWith({ DATABASE_OWNER_URL: url, OTEL_EXPORTER_OTLP_ENDPOINT: collector.url });
    const child = execFile(
      process.execPath,
      [program, 'dlq', ...args],
      { env, timeout: 60_000 },
      (_error, out, err) => resolve({ code: child.exitCode ?? -1, out, err }),
    );
  });
}

let offsets = 0;
async function file(tenant: string, value = '{"not json', key = `acme:${newId()}`) {
  offsets += 1;
  const [id, eventId] = [newId(), newId()];
  await database.query(
    `select messaging.dead_letter_put($1, $2, 'conversation.inbound', 2, $3, now(), 'a.group', 'not_json', 'half of it', 1,
       $4, $5, $6, $7, '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01')`,
    [
      ...[tenant, id, offsets, key, eventId],
      { event_type: 'message.posted', schema: 'conversation.inbound.v1' },
      Buffer.from(value),
    ],
  );
  return { id, key, eventId, session: key.split(':')[1] ?? '' };
}

function valueFile(session: string): string {
  const path = join(folder, `${newId()}.json`);
  const ids = { session_id: session, turn_id: newId(), event_id: newId(), persona_id: 'assistant' };
  writeFileSync(
    path,
    JSON.stringify({ ...ids, message: 'put right', accepted_at: new Date().toISOString() }),
  );
  return path;
}

const outbox = (key: string) =>
  database.query<{ tenant: string; writer: string | null; value: Buffer; headers: Record<string, string> }>(
    'select tenant, writer, value, headers from messaging.outbox where key = $1',
    [key],
  );

describe('signalbox dlq', () => {
  it('lists what waits of whom, and theirs when they are named', async () => {
    const [one, nobodys] = [await file('acme'), await file('_unknown', 'x', 'no \u001b[31mcolon')];
    const all = await dlq(['list']);
    expect(all).toMatchObject({ code: 0, err: '' });
    expect(all.out).toMatch(/^tenant +topic +reason +waiting/);
    expect(all.out).toMatch(/^acme +conversation\.inbound +not_json +1 /m);
    expect(all.out).toMatch(/^_unknown +conversation\.inbound +not_json +1 /m);
    const theirs = await dlq(['list', 'conversation.inbound', '--tenant', 'acme']);
    expect(theirs.out).toContain(one.id);
    expect(theirs.out).not.toContain(nobodys.id);
    const unknown = await dlq(['list', '--unknown', '--limit', '1']);
    expect(unknown.out).toContain(nobodys.id);
    expect(unknown.out).not.toContain('\u001b');
    expect(unknown.err).toContain(`--before ${nobodys.id}`);
  });

  it('shows one whole, or its bytes alone', async () => {
    const { id } = await file('acme', '{"not\njson');
    const shown = await dlq(['show', id, '--tenant', 'acme']);
    expect(shown.out).toMatch(/^detail +half of it$/m);
    expect(shown.out).toMatch(/^place +2\/\d+$/m);
    expect(shown.out).toContain('{"not\njson\n');
    expect((await dlq(['show', id, '--tenant', 'acme', '--value'])).out).toBe('{"not\njson');
    expect(await dlq(['show', id, '--tenant', 'globex'])).toMatchObject({
      code: 1,
      err: expect.stringContaining('NOT_FOUND'),
    });
  });

  it('replays one with a corrected value, leaves it to the relay, links its trace and says who did it', async () => {
    const { id, key, session, eventId } = await file('acme');
    const wrong = join(folder, 'wrong.json');
    writeFileSync(wrong, '{"message": 7}');
    const refused = await dlq(['replay', id, '--tenant', 'acme', '--value', wrong]);
    expect(refused.code).toBe(1);
    expect(refused.err).toMatch(/^VALIDATION_ERROR/m);
    expect(refused.err).toMatch(/^ {2}\/value/m);
    const done = await dlq(['replay', id, '--tenant', 'acme', '--value', valueFile(session)]);
    expect(done).toMatchObject({ code: 0, out: expect.stringContaining(`key ${key}`) });
    const [row] = await outbox(key);
    expect(row).toMatchObject({ writer: null, headers: { replay_of: eventId, ce_source: 'cli' } });
    expect(JSON.parse(row?.value.toString() ?? '')).toMatchObject({ message: 'put right' });
    expect(done.err).toContain('dead_letter.replayed');
    const [letter] = await database.query<{ replayed_by: string }>(
      'select replayed_by from messaging.dead_letters where id = $1',
      [id],
    );
    expect(letter?.replayed_by).toMatch(/^operator:\w+$/);
    const span = await collector.find(
      ({ name, attributes }) =>
        name === 'replay conversation.inbound' && attributes['signalbox.event_id'] === row?.headers.event_id,
    );
    expect(span.links).toMatchObject([{ traceId: '4bf92f3577b34da6a3ce929d0e0e4736' }]);
    expect(row?.headers.traceparent).toBe(`00-${span.traceId}-${span.spanId}-01`);
  });

  it('gives a record of nobody to the tenant that the operator names', async () => {
    const session = newId();
    const { id } = await file('_unknown', 'x', 'no colon');
    expect((await dlq(['replay', id, '--unknown'])).err).toContain('/key');
    const args = ['--unknown', '--key', `acme:${session}`, '--value', valueFile(session)];
    expect(await dlq(['replay', id, ...args])).toMatchObject({ code: 0 });
    expect(await outbox(`acme:${session}`)).toMatchObject([
      { tenant: 'acme', headers: { tenant_id: 'acme', session_id: session } },
    ]);
  });

  it('purges one, or all of a topic that are older', async () => {
    const [one, old, young] = [await file('acme'), await file('acme'), await file('acme')];
    await database.query(
      `update messaging.dead_letters set created_at = now() - interval '3 days' where id = $1`,
      [old.id],
    );
    expect((await dlq(['purge', one.id, '--tenant', 'acme'])).out).toBe('purged 1\n');
    const older = ['--tenant', 'acme', '--topic', 'conversation.inbound', '--older-than', '2d'];
    expect((await dlq(['purge', ...older])).out).toBe('purged 1\n');
    const left = await database.query<{ id: string }>('select id from messaging.dead_letters');
    expect(left.map(({ id }) => id)).toEqual([young.id]);
  });

  it('needs the rights of an operator, a tenant or --unknown, and says so', async () => {
    expect(await dlq(['list'], database.url)).toMatchObject({
      code: 1,
      err: expect.stringMatching(/FORBIDDEN.*rights of an operator/),
    });
    expect((await dlq(['show', newId()])).err).toContain('--tenant');
  });
});
