\echo Use "CREATE EXTENSION walarchive" to load this file. \quit

@include objects.sql
