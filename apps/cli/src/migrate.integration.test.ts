import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { environmentWith } from '@signalbox/config/process-environment';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { testInfra } from '@signalbox/testkit/infra';
import { ownTopics } from '@signalbox/testkit/topics';
import { afterAll, beforeAll, expect, it } from 'vitest';

const program = join(import.meta.dirname, '../bin/signalbox.js');
const topics = ownTopics();
let beside: TestDatabase;
let empty: string;

function emptyUrl(): string {
  const url = new URL(beside.ownerUrl);
  url.pathname = `/${empty}`;
  return url.href;
}

beforeAll(async () => {
  beside = await createTestDatabase();
  empty = `${beside.name}_empty`;
  await beside.query(`CREATE DATABASE ${empty}`);
});
afterAll(async () => {
  await beside.query(`DROP DATABASE ${empty} WITH (FORCE)`);
  await Promise.all([beside.drop(), topics.drop()]);
});

function signalbox(args: string[], environment: Record<string, string>) {
  return new Promise<{ code: number; out: string; err: string }>((resolve) => {
    const env = environmentWith({ KAFKA_TOPIC_PREFIX: topics.prefix, ...environment });
    const child = execFile(
      process.execPath,
      [program, ...args],
      { env, timeout: 60_000 },
      (_error, out, err) => {
        resolve({ code: child.exitCode ?? -1, out, err });
      },
    );
  });
}

it('brings an empty database and broker to this release, once, and ends', async () => {
  const environment = { DATABASE_OWNER_URL: emptyUrl(), KAFKA_BOOTSTRAP_SERVERS: testInfra().kafka };
  const first = await signalbox(['migrate'], environment);
  expect(first).toMatchObject({ code: 0, err: '' });
  expect(first.out).toMatch(/^migrations: ran .*0001/m);
  expect(first.out).toMatch(new RegExp(`^topics: created .*${topics.prefix}conversation.inbound`, 'm'));
  const second = await signalbox(['migrate'], environment);
  expect(second.out).toMatch(/^migrations: up to date$/m);
  expect(second.out).toMatch(/^topics: up to date$/m);
});

it('names every wrong setting and exits 64', async () => {
  const wrong = { DATABASE_OWNER_URL: 'mysql://x', KAFKA_BOOTSTRAP_SERVERS: 'nowhere' };
  const { code, err } = await signalbox(['migrate'], wrong);
  expect(code).toBe(64);
  expect(err).toContain('DATABASE_OWNER_URL');
  expect(err).toContain('KAFKA_BOOTSTRAP_SERVERS');
});
