import { expect } from 'vitest';

/** The body of a reply that must be a problem with all its members. */
export async function problemIn(response: Response): Promise<Record<string, unknown>> {
  expect(response.headers.get('content-type')).toBe('application/problem+json; charset=utf-8');
  const body = await jsonIn(response);
  expect(body).toMatchObject({
    type: `urn:signalbox:error:${String(body.error_code)}`,
    title: expect.any(String),
    status: response.status,
    detail: expect.any(String),
    message: body.detail,
    error_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
    timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
    request_id: response.headers.get('x-request-id'),
  });
  return body;
}

export async function jsonIn(response: Response): Promise<Record<string, unknown>> {
  return recordOf(await response.json());
}

/** Goes into nested objects by their names; {} where there is none. */
export function inside(value: unknown, ...names: string[]): Record<string, unknown> {
  return recordOf(names.reduce<unknown>((at, name) => recordOf(at)[name], value));
}

function recordOf(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {};
}
