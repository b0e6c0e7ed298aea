import { createHash } from 'node:crypto';

/**
 * The text of a JSON value that equal values share: object keys sorted, no white space (RFC 8785 without its number
 * forms, which JSON.stringify has already).
 */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value === 'object' && value !== null) {
    const fields = Object.entries(value)
      .filter(([, field]) => field !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, field]) => `${JSON.stringify(name)}:${canonicalJson(field)}`);
    return `{${fields.join(',')}}`;
  }
  return JSON.stringify(value) ?? 'null';
}

/**
 * The operation key of a tool call, which is also its call_id: hex of SHA-256 over turn, step, tool and canonical
 * arguments, cut to 32. The same over every retry and takeover, unlike the id that the model gives a call.
 */
export function callId(
  turnId: string,
  step: number,
  tool: string,
  args: Readonly<Record<string, unknown>>,
): string {
  return createHash('sha256')
    .update(`${turnId}\n${step}\n${tool}\n${canonicalJson(args)}`)
    .digest('hex')
    .slice(0, 32);
}
