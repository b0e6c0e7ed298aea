import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readState } from '@signalbox/config/sources';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { readServices, removeState, stateFile, writeState } from './state-file.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'state-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

describe('the state file', () => {
  test('tells services what their settings look for', () => {
    writeState(folder, {
      startedAt: '2026-11-21T10:00:00.000Z',
      pid: 1,
      keeper: { pid: 1 },
      kafka: { bootstrap: '127.0.0.1:9092', clusterId: 'abc', pid: 2 },
      postgres: { ownerUrl: 'postgres://owner', url: 'postgres://service', pid: 3 },
      redis: { url: 'redis://r' },
      otlp: { url: 'http://o' },
      model: { url: 'http://m/v1' },
      services: { gateway: { url: 'http://g', pid: 4 } },
    });
    expect(readState(stateFile(folder))).toMatchObject({
      KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:9092',
      KAFKA_CLUSTER_ID: 'abc',
      DATABASE_URL: 'postgres://service',
      REDIS_URL: 'redis://r',
      OTEL_EXPORTER_OTLP_ENDPOINT: 'http://o',
      MODEL_BASE_URL: 'http://m/v1',
    });
    expect(readServices(folder)).toEqual({ gateway: { url: 'http://g', pid: 4 } });
    removeState(folder);
    expect(readServices(folder)).toEqual({});
    expect(readState(stateFile(folder))).toEqual({});
  });

  test('half a file, or another shape, is no state', () => {
    for (const text of ['{"services":', '[]', '{"services":{"gateway":{"url":1}}}', 'null']) {
      writeFileSync(stateFile(folder), text);
      expect(readServices(folder)).toEqual({});
    }
  });
});
