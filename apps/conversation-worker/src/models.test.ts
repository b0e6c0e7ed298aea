import { createBoundedFetch } from '@signalbox/http-client/bounded-fetch';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Models } from './models.ts';

let models: Models;

beforeEach(() => {
  vi.useFakeTimers();
  models = new Models({
    defaults: { provider: 'openai', model: 'm', baseUrl: 'http://127.0.0.1:9/v1', apiKey: '' },
    http: createBoundedFetch({ maxConnections: 1, idleTimeoutMs: 100 }),
    secrets: [],
    ...{ timeoutMs: 100, tries: 1, maxDelayMs: 0, log: silentLog, metrics: silentMetrics },
  });
});
afterEach(() => {
  models.close();
  vi.useRealTimers();
});

const profile = { name: 'default', maxOutputTokens: 10, fallback: 'second' };
const second = { name: 'second', maxOutputTokens: 10 };

test('a profile and its fallback have a breaker each, and the check shows both', async () => {
  await models.get('default', [profile, second]);
  expect(await models.probe()).toEqual({ 'model:default': 'closed', 'model:second': 'closed', status: 'ok' });
});

test('what nobody asks for any more is let go with its breaker, what is asked for is kept', async () => {
  await models.get('default', [profile, second]);
  await vi.advanceTimersByTimeAsync(599_000);
  await models.get('second', [second]);
  await vi.advanceTimersByTimeAsync(2_000);
  expect(await models.probe()).toEqual({ 'model:second': 'closed', status: 'ok' });
});
