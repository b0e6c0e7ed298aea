/** This service as headers, groups and spans name it; other services answer to it. */
export const serviceName = 'delegation-worker';
