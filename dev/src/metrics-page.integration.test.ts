import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { projectRoot } from '@signalbox/config/sources';
import { createTestDatabase, type TestDatabase } from '@signalbox/testkit/database';
import { testInfra } from '@signalbox/testkit/infra';
import { spawnService } from '@signalbox/testkit/service';
import { type OwnTopics, ownTopics } from '@signalbox/testkit/topics';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { serviceNames } from './service-names.ts';

/** What tools/tidy holds against the code, here held against what the services really print. */
const page = readFileSync(join(projectRoot, 'docs/reference/metrics.md'), 'utf8');
const rows = [...page.matchAll(/^`([a-z_]+)` \| (\w+) \| (.*?) \| ([a-z, -]+) \| /gm)].map(
  ([, name = '', type = '', labels = '', services = '']) => ({
    name,
    type,
    labels: [...labels.matchAll(/`(\w+)`/g)].map(([, label = '']) => label),
    services: services === 'all' ? [...serviceNames] : services.split(', '),
  }),
);

let topics: OwnTopics;
let database: TestDatabase;
beforeAll(async () => {
  topics = ownTopics();
  [database] = await Promise.all([createTestDatabase(), topics.create()]);
});
afterAll(async () => {
  await Promise.all([database?.drop(), topics?.drop()]);
});

it.each([...serviceNames])(
  'every metric that %s prints is on the page, with its type and labels',
  async (service) => {
    const infra = testInfra();
    await using running = await spawnService(service, {
      KAFKA_BOOTSTRAP_SERVERS: infra.kafka,
      KAFKA_TOPIC_PREFIX: topics.prefix,
      KAFKA_GROUP_ID: topics.prefix,
      DATABASE_URL: database.url,
      DATABASE_POOL_SIZE: '4',
      DATABASE_MAX_OVERFLOW: '0',
      REDIS_URL: infra.redisUrl,
      REDIS_KEY_PREFIX: topics.prefix,
    });
    await running.ready();
    await fetch(`${running.url}/version`).then((reply) => reply.arrayBuffer());
    const text = await fetch(`${running.url}/metrics`).then((reply) => reply.text());

    const printed = [...text.matchAll(/^# TYPE (\w+) (\w+)$/gm)].map(([, name, type]) => `${name} ${type}`);
    const listed = rows
      .filter(({ services }) => services.includes(service))
      .map(({ name, type }) => `${name} ${type}`);
    expect(printed.length).toBeGreaterThan(10);
    expect(printed.filter((each) => !listed.includes(each))).toEqual([]);

    const series = [...text.matchAll(/^([a-z_]+?)(?:_bucket|_sum|_count)?\{(.*)\} /gm)];
    const strange = series.flatMap(([, name, inside = '']) => {
      const allowed = ['service', 'le', ...(rows.find((row) => row.name === name)?.labels ?? [])];
      const used = [...inside.matchAll(/(\w+)="/g)].map(([, label = '']) => label);
      return used.filter((label) => !allowed.includes(label)).map((label) => `${name}{${label}}`);
    });
    expect(strange).toEqual([]);
    expect(series.filter(([, , inside]) => !inside?.includes(`service="${service}"`))).toEqual([]);
  },
);
