import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { expect, it } from 'vitest';
import { guardSettings } from './guard-settings.ts';
import { webhookSettings } from './webhook-settings.ts';

const load = (environment: Record<string, string>) =>
  loadSettings('test', { ...guardSettings, ...webhookSettings }, givenSources(environment));
const mistakes = (environment: Record<string, string>): unknown => {
  try {
    load(environment);
    return [];
  } catch (error) {
    return error instanceof Error && 'errors' in error ? error.errors : error;
  }
};
const signed = { WEBHOOK_SIGNING_SECRET: 'a secret of some length' };

it('lets private hosts through in development alone', () => {
  const hosts = { ...signed, WEBHOOK_ALLOWED_HOSTS: 'localhost, 127.0.0.1' };
  expect(load({ ENVIRONMENT: 'dev', ...hosts }).webhookAllowedHosts).toEqual(['localhost', '127.0.0.1']);
  for (const ENVIRONMENT of ['staging', 'prod']) {
    expect(load({ ENVIRONMENT, ...signed }).webhookAllowedHosts).toEqual([]);
    expect(mistakes({ ENVIRONMENT, ...hosts })).toMatchObject([
      { path: 'WEBHOOK_ALLOWED_HOSTS', message: expect.stringContaining('public addresses only') },
    ]);
  }
});

it('wants a secret of its own outside of development', () => {
  const known = load({ ENVIRONMENT: 'dev' }).webhookSigningSecret;
  expect(known).not.toBe('');
  for (const WEBHOOK_SIGNING_SECRET of ['', 'short', known]) {
    expect(mistakes({ ENVIRONMENT: 'prod', WEBHOOK_SIGNING_SECRET })).toMatchObject([
      { path: 'WEBHOOK_SIGNING_SECRET' },
    ]);
  }
});
