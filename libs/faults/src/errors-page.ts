import { catalog } from './catalog.ts';

/** docs/reference/errors.md, written from the catalog; a test holds the file against it. */
export function renderErrorsPage(): string {
  const rows = Object.entries(catalog).map(
    ([code, { status, retryable, title, meaning }]) =>
      `| \`${code}\` | ${status} | ${retryable ? 'yes' : 'no'} | ${title} | ${meaning.replaceAll('|', '\\|')} |`,
  );
  return `# Errors

Written from \`libs/faults/src/catalog.ts\` by \`node libs/faults/src/generate-errors-page.ts\`; a test holds this page against
the catalog.

An HTTP error is \`application/problem+json\` (RFC 9457): \`type, title, status, detail, instance\`, and \`error_id\` (finds the log
record), \`error_code\` (a code below), \`message\`, \`timestamp\`, \`request_id\`, \`trace_id\`, for validation \`errors: [{path,
message}]\`. The same codes are in \`error_code\` of logs, of \`assistant.error\` events, of dead letters and of failed work.
**Retryable** says that the same request, unchanged, may succeed later; with a \`Retry-After\` header, not before that.

| code | status | retryable | title | meaning |
| --- | --- | --- | --- | --- |
${rows.join('\n')}
`;
}
